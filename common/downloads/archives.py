"""Read what is wanted out of ZIP and tar archives without trusting them."""
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from common.machine.errors import UserError


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
    try:
        with zipfile.ZipFile(archive) as members:
            for info in members.infolist():
                name = PurePosixPath(info.filename).name
                if name in wanted and name not in found:
                    if info.file_size > limit:
                        raise UserError(f"{archive}: member {info.filename!r} has {info.file_size} bytes, more than "
                                        f"{limit}, refused")
                    found[name] = members.read(info)
    # A RuntimeError says that the archive is encrypted.
    except (zipfile.BadZipFile, OSError, EOFError, zlib.error, lzma.LZMAError, RuntimeError) as error:
        raise UserError(f"{archive}: truncated or no ZIP archive ({error}); fetch it again") from error
    _check_complete(archive, wanted, found)
    return found


def read_members(archive: str | Path, names: Iterable[str], limit: int) -> dict[str, bytes]:
    """Read the wanted files of a tar archive into memory.

    Parameters
    ----------
    archive
        Plain, or compressed by gzip, bzip2 or xz.
    names
        Wanted members, as relative paths with '/'. Others are passed over and nothing is written anywhere.
    limit
        Bytes that one of them may have.

    Raises
    ------
    UserError
        No intact tar archive; a wanted member is missing, no regular file (a link, a device) or larger than `limit`;
        a member before the last wanted one has an absolute path or '..' in it.
    """
    wanted, found = set(names), {}
    try:
        with tarfile.open(archive) as tar:
            while wanted - set(found) and (member := tar.next()) is not None:
                name = _member_name(archive, member)
                if name in wanted:
                    found[name] = _content(archive, tar, member, limit)
    except (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        reason = str(error).partition("\n")[0].rstrip(":")
        raise UserError(f"{archive}: truncated or no tar archive ({reason}); fetch it again") from error
    _check_complete(archive, wanted, found)
    return found


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
