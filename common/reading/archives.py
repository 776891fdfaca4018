"""Read what is wanted out of ZIP and tar archives without trusting them."""
import gzip
import os
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from common.machine.errors import UserError
from common.reading.files import reading

FETCH = "fetch it again"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_BLOCK = 1 << 20    # bytes that are read at once
_EXPANSION = 20    # bytes that may come of one byte of a compressed tar archive on average, beyond the first
_ALWAYS = 1 << 27    # bytes
_LONGEST_HEADER = 1 << 20    # bytes of a name, or of what else describes a member


def read_zip(archive: str | Path, names: Iterable[str], limit: int) -> dict[str, bytes]:
    """Read the wanted files of a ZIP archive into memory, in whichever folder of it they lie.

    Parameters
    ----------
    archive
    names
        Wanted members, by file name without folder; the first of that name is taken.
    limit
        Bytes that one of them may have.

    Raises
    ------
    UserError
        No intact ZIP archive, or a wanted member is missing, encrypted or larger than `limit`.
    """
    wanted, found = set(names), {}
    with reading(archive, "a ZIP archive", FETCH) as stream, zipfile.ZipFile(stream) as members:
        for info in members.infolist():
            name = PurePosixPath(info.filename).name
            if name in wanted and name not in found:
                found[name] = _unzipped(archive, members, info, limit)
    _check_complete(archive, wanted, found)
    return found


def _unzipped(archive, members, info, limit):
    if info.file_size > limit:
        raise UserError(f"{archive}: member {info.filename!r} has {info.file_size} bytes, more than {limit}, refused")
    if info.compress_type not in _METHODS:
        raise UserError(f"{archive}: member {info.filename!r} is compressed in an unusual way, refused")
    with members.open(info) as member:
        content = member.read(info.file_size)    # to read all would first unpack whatever there is
        if len(content) != info.file_size or member.read(1):
            raise UserError(f"{archive}: member {info.filename!r} has not the {info.file_size} bytes that are "
                            f"promised; {FETCH}")
        return content


def is_zip(path: str | Path) -> bool:
    """Tell whether a regular file is a ZIP archive; errors are those of `common.reading.files.reading`."""
    with reading(path, "a file") as stream:
        return zipfile.is_zipfile(stream)


def read_members(archive: str | Path, names: Iterable[str], limit: int) -> dict[str, bytes]:
    """Read the wanted files of a tar archive into memory.

    Parameters
    ----------
    archive
        Plain, or compressed by gzip.
    names
        Wanted members, as relative paths with '/'. Others are passed over and nothing is written anywhere.
    limit
        Bytes that one of them may have.

    Raises
    ------
    UserError
        No intact tar archive; a wanted member is missing, no regular file (a link, a device) or larger than `limit`;
        a member before the last wanted one has an absolute path or '..' in it; it is a bomb.
    """
    wanted, found = set(names), {}
    with reading(archive, "a tar archive", FETCH) as stream, tarfile.open(
            fileobj=_unpacked(archive, stream), mode="r|", bufsize=_BLOCK, tarinfo=_Member) as tar:
        for member in tar:
            name = _member_name(archive, member)
            if name in wanted:
                found[name] = _content(archive, tar, member, limit)
            if len(found) == len(wanted):
                break
    _check_complete(archive, wanted, found)
    return found


def _unpacked(archive: str | Path, stream: BinaryIO) -> Any:
    """Return what has a method `read`, which is all that `tarfile` needs here."""
    size = os.fstat(stream.fileno()).st_size
    compressed = stream.peek(2)[:2] == b"\x1f\x8b"    # pyright: ignore[reportAttributeAccessIssue]
    return _Bounded(archive, gzip.GzipFile(fileobj=stream) if compressed else stream, _ALWAYS + _EXPANSION * size)


class _Bounded:
    """A stream that ends in an error after `limit` bytes."""

    def __init__(self, archive: str | Path, stream: BinaryIO | gzip.GzipFile, limit: int):
        self._archive, self._stream, self._left = archive, stream, limit

    def read(self, size: int) -> bytes:
        content = self._stream.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise UserError(f"{self._archive}: unpacks to far more than an archive of its size, refused")
        return content


class _Member(tarfile.TarInfo):
    """Refuses long headers, which would be read into memory, and sparse files."""

    def _proc_member(self, tar):
        described = self.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
                                  tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)
        if (described and self.size > _LONGEST_HEADER) or self.type == tarfile.GNUTYPE_SPARSE:
            raise tarfile.ReadError("a header of unusual length or kind")
        return super()._proc_member(tar)    # pyright: ignore[reportAttributeAccessIssue]

    def _refuse(self, *args):
        raise tarfile.ReadError("a sparse file")

    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse


def _check_complete(archive, wanted, found):
    if missing := sorted(wanted - set(found)):
        raise UserError(f"{archive}: no '{missing[0]}' in this archive ({len(missing)} of {len(wanted)} files missing)")


def _member_name(archive, member):
    name = PurePosixPath(member.name)    # './folder/file' becomes 'folder/file'
    if name.is_absolute() or ".." in name.parts:
        raise UserError(f"{archive}: member {member.name!r} points outside the archive, refused")
    return str(name)


def _content(archive, tar, member, limit):
    if not member.isreg():
        raise UserError(f"{archive}: member {member.name!r} is no regular file, refused")
    if member.size > limit:
        raise UserError(f"{archive}: member {member.name!r} has {member.size} bytes, more than {limit}, refused")
    content = tar.extractfile(member).read()
    if len(content) != member.size:
        raise tarfile.ReadError(f"unexpected end in {member.name}")
    return content
