"""Find the weights of segmentation networks: published ones by name, files, and folders of training runs."""
from pathlib import Path

from common.downloads.fetch import fetch_first_seen
from common.machine.errors import UsageError, UserError
from common.runs.checkpoint import stored_scopes, stored_shapes
from common.runs.training import BEST
from common.separation.weights import find_model
from d3net.hyperparameters import SegmentationHyperParameters, load_segmentation
from d3net.scenes.published import DEFAULT, PUBLISHED, published_name
from d3net.segmentation_model import BACKBONE, HEAD
from d3net.weights import WeightFile, first_names

HPARAMS = "hparams.yaml"    # beside the parameters of a run


def segmentation_file(model: str | Path, config: str | Path | None = None) -> WeightFile[SegmentationHyperParameters]:
    """Find the weights of a segmentation network.

    Parameters
    ----------
    model
        `D3Net-L` or `D3Net-S` (fetched on the first use); a file; or the folder of a training run.
    config
        Hyper-parameters, see `d3net.hyperparameters.load_segmentation`. If not given: those in `hparams.yaml` beside
        the file, or those that the file's name names, otherwise those of D3Net-L.

    Raises
    ------
    UsageError
        There is no such model, or no such hyper-parameters.
    UserError
        The file belongs to another network or cannot be read; no network connection.
    """
    addresses = {name: published.url for name, published in PUBLISHED.items()}
    name = published_name(model)
    if name and not Path(model).exists():
        return WeightFile(find_model(name, addresses), load_segmentation(config or name))
    path = find_model(model, addresses)
    if path.is_dir():
        path = path / BEST
        if not path.is_file():
            raise UsageError(f"--model {model}: no {BEST} of a training run in this folder")
    if not {BACKBONE, HEAD} <= stored_scopes(path).keys():
        raise UserError(f"{path}: weights of another network: not those of a D3Net for segmentation"
                        f"{first_names(stored_shapes(path))}")
    return WeightFile(path, load_segmentation(config or _config_beside(path)))


def _config_beside(path: Path) -> str | Path:
    if (path.parent / HPARAMS).exists():
        return path.parent / HPARAMS
    return published_name(path.stem) or DEFAULT


def pretrained_backbone(name_or_path: str | Path) -> Path:
    """Find the weights of a backbone, whose names lack the scope `d3net.segmentation_model.BACKBONE`.

    Parameters
    ----------
    name_or_path
        `D3Net-L-pretrained-backbone` or `D3Net-S-pretrained-backbone` (fetched on the first use), or a file.

    Raises
    ------
    UsageError
        There is no such file.
    UserError
        No network connection.
    """
    backbones = {published.backbone: published.backbone_url for published in PUBLISHED.values()}
    if str(name_or_path) in backbones and not Path(name_or_path).exists():
        return fetch_first_seen(backbones[str(name_or_path)])
    if not Path(name_or_path).is_file():
        raise UsageError(f"{name_or_path}: no such weight file; the published backbones are "
                         f"{', '.join(backbones)}")
    return Path(name_or_path)
