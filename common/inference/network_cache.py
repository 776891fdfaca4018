"""A cache of compiled networks, as files '<key>-<checksum of the content>' in one folder.

Where the folder cannot be used, nothing is found or stored, and no error is raised.
"""
import contextlib
import os
import time
import zlib
from pathlib import Path

from common.machine.cache import cache_dir
from common.machine.errors import UserError
from common.machine.files import make_folder, replacing
from common.reading.files import open_regular

LIMIT = 1 << 30    # bytes of compiled networks that are kept, the last used ones


def _folder() -> Path:
    return cache_dir() / "engines"


def find(key: str) -> Path | None:
    """Return the path of what is stored under `key`, None if there is nothing; what is damaged is removed."""
    with contextlib.suppress(OSError, UserError):    # no home; another process has removed the file
        for path in _folder().glob(f"{key}-*"):
            if path.name == f"{key}-{_checksum(path):08x}":
                with contextlib.suppress(OSError):
                    now = time.time_ns()    # finer than the time that the system would set
                    os.utime(path, ns=(now, now))    # the files used last are kept
                return path
            path.unlink()
    return None


def _checksum(path):
    checksum = 0
    with open_regular(path) as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def store(key: str, content: bytes | memoryview) -> Path | None:
    """Store bytes under `key` and return their path; None if that is not possible."""
    with contextlib.suppress(OSError, UserError):
        path = make_folder(_folder()) / f"{key}-{zlib.crc32(content):08x}"
        with replacing(path) as temporary:
            temporary.write_bytes(content)
        _remove_oldest(path)
        return path
    return None


def _remove_oldest(newest):
    """Remove the files beside `newest` that were used longest ago, until all together have `LIMIT` bytes."""
    others = ((path, path.stat()) for path in newest.parent.glob("[!.]*") if path != newest)
    total = newest.stat().st_size
    for path, stat in sorted(others, key=lambda pair: pair[1].st_mtime, reverse=True):
        total += stat.st_size
        if total > LIMIT:
            path.unlink(missing_ok=True)
