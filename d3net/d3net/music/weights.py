"""Find the weights of the music networks: published ones by name, files, and folders of training runs."""
from collections.abc import Sequence
from pathlib import Path

from common.machine.errors import UsageError, UserError
from common.runs.checkpoint import stored_scopes, stored_shapes
from common.separation.weights import check_targets, find_model, in_order, refuse_archive
from d3net.hyperparameters import MSSHyperParameters, load_mss
from d3net.mss_model import TARGETS
from d3net.music.network import NETWORK
from d3net.weights import WeightFile, first_names

PUBLISHED_MSS = {name: model.url for name, model in NETWORK.published.items()}
_LARGEST = 1 << 28    # bytes that a file of the published archive may have; it has some 12 MB


def mss_files(model: str | Path, targets: Sequence[str] | None = None) -> dict[str, WeightFile[MSSHyperParameters]]:
    """Find the weights of music networks, one file for each target.

    Hyper-parameters stand in `<target>.yaml` beside the file; without it they are the published ones of the target.

    Parameters
    ----------
    model
        `d3net-mss` (fetched on the first use, unless there is such a folder); `d3net-small`, which is part of the
        package; a folder with files `<target>.h5`, as training leaves them; or one file.
    targets
        Which are wanted; None: all there are.

    Returns
    -------
    dict
        By target, in the order of `targets`, or else the published order.

    Raises
    ------
    UsageError
        There is no such model, it has no such target, or nothing says what its hyper-parameters are.
    UserError
        A file belongs to another network or cannot be read; no network connection.
    """
    path = find_model(model, PUBLISHED_MSS, TARGETS, _LARGEST, NETWORK.shipped_folders)
    files = _in_folder(path) if path.is_dir() else {_target_of(path): path}
    check_targets(targets, model, files)
    return {target: _weight_file(target, files[target]) for target in targets or files}


def _in_folder(folder: Path) -> dict[str, Path]:
    """Return {target: file}; a run's last parameters, `<target>_final.h5`, are left out beside its best ones."""
    files = {path.stem: path for path in sorted(folder.glob("[!.]*.h5"))}
    files = {name: path for name, path in files.items() if name.removesuffix("_final") not in files.keys() - {name}}
    if not files:
        raise UsageError(f"--model {folder}: no weights here: <target>.h5 is expected, such as {TARGETS[0]}.h5")
    return in_order(files, TARGETS)


def _target_of(path: Path) -> str:
    """Return the target that a file is for: the scope of all its parameters."""
    refuse_archive(path)
    scopes = stored_scopes(path)
    if len(scopes) != 1 or "decode_scale" not in min(scopes.values()):
        raise UserError(f"{path}: weights of another network: not those of a D3Net for one source of music"
                        f"{first_names(stored_shapes(path))}")
    return min(scopes)


def _weight_file(target: str, path: Path) -> WeightFile[MSSHyperParameters]:
    found = _target_of(path)
    if found != target:
        raise UserError(f"{path}: weights of another network: of the target {found}; call the file {found}.h5")
    beside = path.with_name(f"{target}.yaml")
    if not beside.exists() and target not in TARGETS:
        raise UsageError(f"{path}: no {beside.name} beside it, and {target} is none of the published targets "
                         f"{', '.join(TARGETS)}: put its hyper-parameters there")
    return WeightFile(path, load_mss(beside if beside.exists() else target))
