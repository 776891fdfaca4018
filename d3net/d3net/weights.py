"""Find the weights of the networks: published ones by name, files, and folders of training runs."""
from pathlib import Path

import attrs

from common.downloads.fetch import fetch_first_seen
from common.machine.errors import UsageError, UserError
from common.runs.checkpoint import stored_shapes
from common.runs.training import BEST
from common.separation.weights import check_targets, find_model, in_order, refuse_archive
from d3net.hyperparameters import load_mss, load_segmentation
from d3net.mss_model import TARGETS
from d3net.music.network import NETWORK

BASE = "https://nnabla.org/pretrained-models/ai-research-code/d3net"
PUBLISHED_MSS = {name: model.url for name, model in NETWORK.published.items()}
PUBLISHED_SEGMENTATION = {name: f"{BASE}/semantic-segmentation/{name}.h5" for name in ("D3Net-L", "D3Net-S")}
PUBLISHED_BACKBONES = {f"{name}-pretrained-backbone": url.replace(".h5", "-pretrained-backbone.h5")
                       for name, url in PUBLISHED_SEGMENTATION.items()}
HPARAMS = "hparams.yaml"    # beside the parameters of a segmentation run
DEFAULT_CONFIG = "D3Net_L"
_LARGEST = 1 << 28    # bytes that a file of the published archive may have; it has some 12 MB


@attrs.frozen
class WeightFile:
    """A parameter file and the hyper-parameters of its network.

    Parameters
    ----------
    path : pathlib.Path
        To be read by `common.runs.checkpoint.load_parameters`.
    hparams : MSSHyperParameters or SegmentationHyperParameters
    """

    path = attrs.field()
    hparams = attrs.field()


def mss_files(model, targets=None):
    """Find the weights of music networks, one file for each target.

    Hyper-parameters stand in `<target>.yaml` beside the file; without it they are the published ones of the target.

    Parameters
    ----------
    model : str or path
        `d3net-mss` (fetched on the first use, unless there is such a folder); a folder with files `<target>.h5`, as
        training leaves them; or one file.
    targets : sequence of str or None
        Which are wanted; None: all there are.

    Returns
    -------
    dict of str to WeightFile
        By target, in the order of `targets`, or else the published order.

    Raises
    ------
    UsageError
        There is no such model, it has no such target, or nothing says what its hyper-parameters are.
    UserError
        A file belongs to another network or cannot be read; no network connection.
    """
    path = find_model(model, PUBLISHED_MSS, TARGETS, _LARGEST)
    files = _in_folder(path) if path.is_dir() else {_target_of(path): path}
    check_targets(targets, model, files)
    return {target: _describe(target, files[target]) for target in targets or files}


def _in_folder(folder):
    """Return {target: file}; a run's last parameters, `<target>_final.h5`, are left out beside its best ones."""
    files = {path.stem: path for path in sorted(folder.glob("*.h5"))}
    files = {name: path for name, path in files.items() if name.removesuffix("_final") not in files.keys() - {name}}
    if not files:
        raise UsageError(f"--model {folder}: no weights here: <target>.h5 is expected, such as {TARGETS[0]}.h5")
    return in_order(files, TARGETS)


def _target_of(path):
    """Return the target that a file is for: the scope of all its parameters."""
    refuse_archive(path)
    shapes = stored_shapes(path)
    scopes = {name.split("/")[0] for name in shapes}
    if len(scopes) != 1 or f"{min(scopes)}/decode_scale" not in shapes:
        raise UserError(f"{path}: weights of another network: not those of a D3Net for one source of music"
                        f"{_examples(shapes)}")
    return scopes.pop()


def _examples(shapes):
    return f" ({', '.join(list(shapes)[:2])}, ...)" if shapes else " (no parameters at all)"


def _describe(target, path):
    found = _target_of(path)
    if found != target:
        raise UserError(f"{path}: weights of another network: of the target {found}; call the file {found}.h5")
    beside = path.with_name(f"{target}.yaml")
    if not beside.exists() and target not in TARGETS:
        raise UsageError(f"{path}: no {beside.name} beside it, and {target} is none of the published targets "
                         f"{', '.join(TARGETS)}: put its hyper-parameters there")
    return WeightFile(path, load_mss(beside if beside.exists() else target))


def segmentation_file(model, config=None):
    """Find the weights of a segmentation network.

    Parameters
    ----------
    model : str or path
        `D3Net-L` or `D3Net-S` (fetched on the first use); a file; or the folder of a training run.
    config : str or path, optional
        Hyper-parameters, see `d3net.hyperparameters.load_segmentation`. If not given: those in `hparams.yaml` beside
        the file, or those that the file's name names, otherwise those of D3Net-L.

    Returns
    -------
    WeightFile

    Raises
    ------
    UsageError
        There is no such model, or no such hyper-parameters.
    UserError
        The file belongs to another network or cannot be read; no network connection.
    """
    name = str(model).replace("_", "-")
    if name in PUBLISHED_SEGMENTATION and not Path(model).exists():
        return WeightFile(find_model(name, PUBLISHED_SEGMENTATION), load_segmentation(config or name))
    path = find_model(model, PUBLISHED_SEGMENTATION)
    if path.is_dir():
        path = path / BEST
        if not path.is_file():
            raise UsageError(f"--model {model}: no {BEST} of a training run in this folder")
    shapes = stored_shapes(path)
    if not {"backbone", "decode_head"} <= {key.split("/")[0] for key in shapes}:
        raise UserError(f"{path}: weights of another network: not those of a D3Net for segmentation"
                        f"{_examples(shapes)}")
    return WeightFile(path, load_segmentation(config or _config_beside(path)))


def _config_beside(path):
    if (path.parent / HPARAMS).exists():
        return path.parent / HPARAMS
    named = path.stem.replace("_", "-")
    return named if named in PUBLISHED_SEGMENTATION else DEFAULT_CONFIG


def pretrained_backbone(name_or_path):
    """Find the weights of a backbone, whose names lack the scope `d3net.segmentation_model.BACKBONE`.

    Parameters
    ----------
    name_or_path : str or path
        `D3Net-L-pretrained-backbone` or `D3Net-S-pretrained-backbone` (fetched on the first use), or a file.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        No network connection.
    """
    if str(name_or_path) in PUBLISHED_BACKBONES and not Path(name_or_path).exists():
        return fetch_first_seen(PUBLISHED_BACKBONES[str(name_or_path)])
    if not Path(name_or_path).is_file():
        raise UsageError(f"{name_or_path}: no such weight file; the published backbones are "
                         f"{', '.join(PUBLISHED_BACKBONES)}")
    return Path(name_or_path)
