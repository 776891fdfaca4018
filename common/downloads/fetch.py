"""Fetch published files into a cache folder, and unpack what is wanted of archives there."""
import hashlib
import http.client
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from common.console.progress import progress
from common.machine.cache import cache_dir, make_cache_folder
from common.machine.errors import UserError
from common.machine.files import replacing, write_text
from common.machine.locks import locked
from common.machine.streams import say
from common.reading.archives import read_members, read_zip
from common.reading.texts import read_text

BLOCK = 1 << 18    # bytes that travel at once
TIMEOUT = 30    # seconds without a byte
QUICK = 4    # seconds for a server to say whether it has a file
PATIENCE, SLOWEST = 600, 10_000    # seconds that any download may take, and those of its bytes: bytes a second
LARGEST = 1 << 33    # bytes of a file whose size is not published


def fetch(url: str, size: int, digest: str | None, folder: str | Path | None = None) -> Path:
    """Return the local copy of the file at `url`, downloading it first where there is none.

    A download that stops leaves `<name>.part`, and the next call goes on from there. Several processes may ask for one
    file at once: one downloads, the others wait.

    Parameters
    ----------
    url
        Its last path component names the local file.
    size
        Bytes.
    digest
        'sha256:<hex>' or 'md5:<hex>' of the whole file; None if it is not known (`fetch_first_seen`).
    folder
        Where the file lies or will lie; `cache_dir()` if not given.

    Returns
    -------
    pathlib.Path
        A file of that size and digest, also if it was there before.

    Raises
    ------
    UserError
        No network, no such file, other content than promised, no room: says which file to put where.
    """
    target = _target(url, folder)
    if not target.exists():
        make_cache_folder(target.parent)
        with locked(target.with_name(f".{target.name}.lock")):    # ranks ask for it all at once
            if not target.exists():
                _download(url, size, digest, target)
                return target
    if not _is_as_published(target, size, digest):
        raise UserError(f"{target}: not the published file ({_described(size, digest)}); remove it to fetch it anew")
    return target


def fetch_first_seen(url: str, folder: str | Path | None = None) -> Path:
    """Fetch a file of which neither size nor digest was published: the first download settles both.

    Its digest is recorded in `<name>.sha256` beside it, and holds from then on.

    Parameters, returns and errors are those of `fetch`.
    """
    target = _target(url, folder)
    record = target.with_name(f"{target.name}.sha256")
    digest = read_text(record, "a digest").strip() if target.exists() and record.exists() else ""
    if re.fullmatch("sha256:[0-9a-f]{64}", digest):
        return fetch(url, target.stat().st_size, digest, folder)
    fetch(url, target.stat().st_size if target.exists() else _announced_size(url, target), None, folder)
    digest = _hexdigest(target, "sha256")
    say(f"note: {target}: not verified, for no digest of it is published; from now on it must be sha256:{digest}")
    write_text(record, f"sha256:{digest}\n")
    return target


def why_not_there(url: str, seconds: float = QUICK) -> str | None:
    """Ask quickly for a file: why it cannot be fetched, in a few words, or None if its server has it.

    However long the name of the server or a connection may take to fail, the answer comes after `seconds`.
    """
    reasons = [f"no answer within {seconds:g} s"]

    def ask():
        try:
            with _opened(urllib.request.Request(url, method="HEAD"), 2 * seconds):
                reasons.append("")
        except (OSError, http.client.HTTPException, ValueError) as error:
            reasons.append(_reason(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return reasons[-1] or None


class _NoStepDown(urllib.request.HTTPRedirectHandler):
    """Follows no redirection from https to anything else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if req.full_url.startswith("https:") and not newurl.startswith("https:"):
            raise urllib.error.URLError(f"it leads from https to {newurl.partition(':')[0]}, refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opened(request: urllib.request.Request, timeout: float = TIMEOUT) -> Any:
    return urllib.request.build_opener(_NoStepDown).open(request, timeout=timeout)


def _target(url, folder):
    name = urllib.parse.unquote(PurePosixPath(urllib.parse.urlsplit(url).path).name)
    return Path(folder or cache_dir()) / name


def _announced_size(url, target):
    try:
        with _opened(urllib.request.Request(url, method="HEAD")) as response:
            size = int(response.headers["Content-Length"])
        if not 0 <= size <= LARGEST:
            raise OSError(f"it announces {size} bytes, and {LARGEST} are allowed")
        return size
    except (OSError, http.client.HTTPException, TypeError, ValueError) as error:
        raise UserError(f"{target.name}: download from {url} failed ({_reason(error)}); put the file at {target} "
                        "by hand") from error


def is_fetched(url: str, name: str) -> bool:
    """Whether the cache has the file at `url`, or the folder `name` with what `fetch_members` has unpacked of it."""
    try:
        return _target(url, None).exists() or (cache_dir() / name).is_dir()
    except UserError:    # no home, no cache
        return False


def fetch_members(url: str, name: str, members: Sequence[str], limit: int) -> Path:
    """Fetch a ZIP archive as `fetch_first_seen` does, and unpack files of it into a folder of the cache.

    Parameters
    ----------
    name
        The folder in the cache.
    members, limit
        As `names` and `limit` of `read_zip`.

    Returns
    -------
    pathlib.Path
        The folder, with all the members.

    Raises
    ------
    UserError
        As `fetch` and `read_zip`, or nothing can be written to the cache.
    """
    folder = cache_dir() / name
    if not all((folder / member).is_file() for member in members):
        _unpack(read_zip(fetch_first_seen(url), members, limit), folder)
    return folder


def extract(archive: str | Path, names: Sequence[str], folder: str | Path, limit: int) -> None:
    """Write the wanted files of a tar archive below `folder`, each whole or not at all; see `read_members`."""
    _unpack(read_members(archive, names, limit), Path(folder))


def _unpack(contents, folder):
    for name, content in contents.items():
        path = folder / name
        make_cache_folder(path.parent)
        with replacing(path) as temporary:
            temporary.write_bytes(content)


def _download(url, size, digest, target):
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    try:
        _receive(url, size, part)
        if _is_as_published(part, size, digest):
            part.replace(target)
            return
        part.unlink()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"{target.name}: download from {url} failed ({_reason(error)}); run again to go on, or put the "
                        f"file at {target} by hand ({_described(size, digest)})") from error
    if not resumed:
        raise UserError(f"{target.name}: {url} sent other content than was published there; put the file at {target} "
                        f"by hand ({_described(size, digest)})")
    _download(url, size, digest, target)    # what an earlier call left may have been the damaged piece


def _described(size, digest):
    return f"{size} bytes, {digest}" if digest else f"{size} bytes"


def _receive(url, size, part):
    """Append to the file `part` until it has `size` bytes (one more if the server has more); raise OSError if short."""
    done = part.stat().st_size if part.exists() else 0
    if done >= size:    # whole, or too long: the digest will tell
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    with _opened(request) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0    # this server always sends all of it
        with part.open("ab" if done else "wb") as stream, progress(
                None, desc=part.stem, initial=done, total=size, unit="B", unit_scale=True) as bar:
            latest = time.monotonic() + PATIENCE + size / SLOWEST
            while block := response.read(min(BLOCK, size + 1 - done)):
                if time.monotonic() > latest:
                    raise OSError(f"slower than {SLOWEST} bytes a second, after {done} of {size} bytes")
                done += stream.write(block)
                bar.update(len(block))
            stream.flush()
            os.fsync(stream.fileno())
    if done < size:
        raise OSError(f"the connection ended after {done} of {size} bytes")


def _is_as_published(path, size, digest):
    if path.stat().st_size != size:
        return False
    if digest is None:
        return True
    algorithm, _, expected = digest.partition(":")
    return _hexdigest(path, algorithm) == expected


def _hexdigest(path, algorithm):
    running = hashlib.new(algorithm)
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            running.update(block)
    return running.hexdigest()


def _reason(error):
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
