"""Where the weights of a music network are: published models by name, files, and folders of them."""
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from common.downloads.fetch import fetch_first_seen, fetch_members, is_fetched, why_not_there
from common.machine.errors import UsageError, UserError
from common.machine.streams import say
from common.reading.archives import is_zip


def find_model(model: str | Path, published: Mapping[str, str], sources: Iterable[str] = (),
               largest: int = 0, shipped: Mapping[str, Path] = MappingProxyType({})) -> Path:
    """Find a weight file or a folder of weights.

    Parameters
    ----------
    model
        A published or shipped name, unless there is such a path; otherwise a path.
    published
        Name -> URL of a file, or of a ZIP archive with a file `<source>.h5` for each of `sources`. It is fetched on the
        first use.
    sources
    largest
        Bytes that a file in the archive may have.
    shipped
        Name -> folder, of weights that are part of the package.

    Raises
    ------
    UsageError
        There is no such model.
    UserError
        No network connection, or another archive.
    """
    name, path = str(model), Path(model)
    if path.exists():
        return path
    if name in shipped:
        return shipped[name]
    if name not in published:
        raise UsageError(f"--model {model}: no such file or folder; the known models are "
                         f"{', '.join((*published, *shipped))}")
    url = published[name]
    if not url.endswith(".zip"):
        return fetch_first_seen(url)
    return fetch_members(url, name, [f"{source}.h5" for source in sources], largest)


def model_at_hand(model: str, url: str, stand_in: str) -> str:
    """Return `model`, or the name of weights that ship where its own are neither in the cache nor to be had.

    Which it is, is known within seconds; it is said on stderr if the weights that ship have to do.
    """
    if is_fetched(url, model):
        return model
    reason = why_not_there(url)
    if reason is None:
        return model
    say(f"note: the weights of {model} are not in the cache and cannot be fetched ({reason}): {stand_in} takes their "
        f"place, a small network that separates worse; --model {model} says how to get them")
    return stand_in


def in_order(files: Mapping[str, Path], sources: Sequence[str]) -> dict[str, Path]:
    """Return files by source, the known `sources` first."""
    known = [source for source in sources if source in files]
    return {source: files[source] for source in (*known, *(source for source in files if source not in sources))}


def check_targets(targets: Iterable[str] | None, model: str | Path, available: Iterable[str]) -> None:
    """Raise a UsageError for a target that a model does not separate."""
    for target in targets or ():
        if target not in available:
            raise UsageError(f"--targets {target}: {model} separates {', '.join(available)}")


def refuse_archive(path: Path) -> None:
    """Raise a UserError if a weight file is a ZIP archive, as they are published."""
    if is_zip(path):
        raise UserError(f"{path}: a ZIP archive; unpack it and name the folder")
