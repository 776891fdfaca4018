"""The published segmentation networks: names, addresses and scores."""
from collections.abc import Mapping
from pathlib import Path

import attrs

BASE = "https://nnabla.org/pretrained-models/ai-research-code/d3net/semantic-segmentation"


@attrs.frozen(kw_only=True)
class PublishedModel:
    """Weights that are published under a name, which is also that of their hyper-parameters.

    Attributes
    ----------
    miou
        Whose number -> mean intersection over union in percent on the 500 validation images of Cityscapes.
    """

    name: str
    miou: Mapping[str, float]

    @property
    def url(self) -> str:
        return f"{BASE}/{self.name}.h5"

    @property
    def backbone(self) -> str:
        """Name of the weights that training starts from."""
        return f"{self.name}-pretrained-backbone"

    @property
    def backbone_url(self) -> str:
        return f"{BASE}/{self.backbone}.h5"


# mIoU: arXiv 2011.11844, and the README of the published NNabla weights. The first one is the default.
PUBLISHED = {model.name: model for model in (
    PublishedModel(name="D3Net-L", miou={"paper": 80.6, "NNabla": 81.0}),
    PublishedModel(name="D3Net-S", miou={"paper": 79.5, "NNabla": 79.9}))}
DEFAULT, *_ = PUBLISHED


def published_name(name: str | Path | None) -> str | None:
    """Return the published name that `name` spells, with hyphens or underscores; None if it is another one."""
    spelled = str(name).replace("_", "-")
    return spelled if spelled in PUBLISHED else None
