"""What the commands that separate and score know of a network: a row that each paper writes."""
import argparse
import functools
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from common.console.tables import align
from common.downloads.fetch import is_fetched
from common.inference.flags import Computation, add_computing_flags
from common.separation.separator import StemSeparator
from common.separation.weights import model_at_hand

Scores = Mapping[str, Mapping[str, float]]


@attrs.frozen(kw_only=True)
class PublishedModel:
    """Weights that are published under a name.

    Attributes
    ----------
    url
        Of a weight file, or of a ZIP archive with a file `<source>.h5` for each source.
    megabytes
        About how many are fetched.
    sdr
        Whose numbers -> source -> median SDR in dB over frames and the 50 test songs of MUSDB18.
    """

    url: str
    megabytes: int
    sdr: Scores

    @property
    def sources(self) -> tuple[str, ...]:
        """What it separates."""
        return tuple(next(iter(self.sdr.values())))


@attrs.frozen(kw_only=True)
class ShippedModel:
    """Weights that are part of the package.

    Attributes
    ----------
    folder
        As the one of a training run.
    sources
        What it separates.
    """

    folder: Path
    sources: tuple[str, ...]

    @property
    def megabytes(self) -> float:
        """What its files take on the disk."""
        return sum(path.stat().st_size for path in self.folder.iterdir()) / 1e6


@attrs.frozen(kw_only=True)
class MusicNetwork:
    """A network that separates music.

    Attributes
    ----------
    published
        Models by name, which are fetched on the first use.
    shipped
        Models that are part of the package, by name.
    stand_ins
        Published name -> shipped name that takes its place where it cannot be fetched and none was asked for.
    separator
        The module that defines its `Separator`. It is imported when a separator is made, as it is slow to load.
    chunk_seconds
        Default length of a chunk; None: songs are separated in one piece.
    overlap
        Default share of a chunk that the next one has, too.
    whole_songs
        What the help of `eval.py` says of songs that are separated in one piece.
    add_flags
        Adds the flags of the network to a parser.
    options
        Takes the values of these flags, and returns the arguments of `Separator`, of which `model` is one.
    """

    published: Mapping[str, PublishedModel]
    separator: str
    chunk_seconds: float | None
    overlap: float
    whole_songs: str
    add_flags: Callable[[argparse.ArgumentParser], None]
    options: Callable[[argparse.Namespace], dict[str, Any]]
    shipped: Mapping[str, ShippedModel] = attrs.field(factory=dict)
    stand_ins: Mapping[str, str] = attrs.field(factory=dict)

    def add_separator_flags(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags of `separator_of_flags`, but for those of chunks."""
        self.add_flags(parser)
        add_computing_flags(parser)

    def separator_of_flags(self, args: argparse.Namespace) -> StemSeparator:
        """Make the separator that the flags ask for, and print what it computes on.

        Raises
        ------
        UsageError, UserError
            As the `Separator` of the network, and `use_context`.
        """
        options = self.options(args)
        make = functools.partial(importlib.import_module(self.separator).Separator, **options,
                                 chunk_seconds=args.chunk_dur or None, overlap=args.overlap)
        return Computation.of_flags(args).start(options["model"], make)

    def models_table(self) -> str:
        """Return a table of the known models: name, size, sources, where it comes from, whether it is there."""
        rows = []
        for name, model in self.published.items():
            there = "yes" if is_fetched(model.url, name) else "no"
            rows.append([name, f"{model.megabytes} MB", " ".join(model.sources), model.url, there])
        rows += [[name, f"{model.megabytes:.1f} MB", " ".join(model.sources), "this package", "-"]
                 for name, model in self.shipped.items()]
        return align([["model", "size", "sources", "from", "in the cache"], *rows], left=5)

    @property
    def shipped_folders(self) -> dict[str, Path]:
        """{name: folder} of `shipped`."""
        return {name: model.folder for name, model in self.shipped.items()}

    def model_at_hand(self, args: argparse.Namespace) -> str:
        """Return the model that the flags ask for; where they name none, see `stand_ins`."""
        model = self.options(args)["model"]
        if args.model is not None or model not in self.stand_ins:
            return model
        return model_at_hand(model, self.published[model].url, self.stand_ins[model])

    def published_sdr(self, model: str) -> Scores:
        """Return the published scores of a model; those of all models if it is one of the user's own."""
        models = [self.published[model]] if model in self.published else self.published.values()
        return {label: scores for published in models for label, scores in published.sdr.items()}
