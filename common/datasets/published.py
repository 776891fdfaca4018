"""Data sets that are published as one archive of one folder: found wherever a user keeps them, or downloaded."""
from pathlib import Path

import attrs

from common.downloads.archives import read_members
from common.downloads.fetch import cache_dir, extract, fetch
from common.machine.errors import UsageError, UserError


@attrs.frozen(kw_only=True)
class PublishedArchive:
    """Where a data set comes from, and what of it is read.

    Attributes
    ----------
    title : str
        What messages call it.
    url : str
        Its file name is that of the archive.
    size : int
        Bytes of the archive.
    digest : str
        As in `common.downloads.fetch.fetch`.
    folder : str
        Folder in the archive.
    names : tuple of str
        All files in the folder that are ever read.
    limit : int
        Bytes that one of them may have.
    """

    title: str
    url: str
    size: int
    digest: str
    folder: str
    names: tuple
    limit: int

    @property
    def archive(self):
        """File name of the archive."""
        return self.url.rpartition("/")[2]

    def contents(self, names, data_dir=None):
        """Yield the content of files.

        Parameters
        ----------
        names : sequence of str
            Some of `self.names`.
        data_dir : path, optional
            Holds the files, the folder, or the archive, of which nothing is unpacked. Not given: the cache folder, to
            which the archive is downloaded where files are missing.

        Yields
        ------
        (str, bytes)
            What a user calls the file, and its content.

        Raises
        ------
        UsageError
            Nothing of use in `data_dir`.
        UserError
            A file cannot be read or is too large, or the download failed.
        """
        place = self._cached() if data_dir is None else self._find(Path(data_dir))
        if place.is_dir():
            for name in names:
                yield str(place / name), self._read(place / name)
        else:
            members = [f"{self.folder}/{name}" for name in names]
            contents = read_members(place, members, self.limit)
            for member in members:
                yield f"{place}, {member}", contents[member]

    def _find(self, data_dir):
        for folder in (data_dir, data_dir / self.folder):
            if any((folder / name).is_file() for name in self.names):
                return folder
        if (data_dir / self.archive).is_file():
            return data_dir / self.archive
        wrong = f"no folder '{self.folder}' and no '{self.archive}' in it" if data_dir.is_dir() else "no such folder"
        raise UsageError(f"--data-dir {data_dir}: {wrong}; it should hold {self.title} ({self.url})")

    def _cached(self):
        folder = cache_dir() / self.folder
        if not all((folder / name).is_file() for name in self.names):
            archive = fetch(self.url, self.size, self.digest)
            extract(archive, [f"{self.folder}/{name}" for name in self.names], cache_dir(), self.limit)
        return folder

    def _read(self, path):
        try:
            if path.stat().st_size > self.limit:
                raise UserError(f"{path}: {path.stat().st_size} bytes, more than {self.limit}, refused")
            return path.read_bytes()
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); unpack {self.archive} again") from error
