"""Files of data sets as they are published: found wherever a user keeps them, or downloaded."""
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from common.downloads.fetch import extract, fetch
from common.machine.cache import cache_dir
from common.machine.errors import UsageError
from common.reading.archives import read_members
from common.reading.files import read_bytes


@attrs.frozen(kw_only=True)
class PublishedArchive:
    """One archive of one folder, from which some files are read.

    Attributes
    ----------
    title
        What messages call it.
    url
        Its file name is that of the archive.
    size
        Bytes of the archive.
    digest
        As in `common.downloads.fetch.fetch`.
    folder
        Folder in the archive.
    names
        Files in the folder that are read, by split.
    limit
        Bytes that one of them may have.
    """

    title: str
    url: str
    size: int
    digest: str
    folder: str
    names: Mapping[str, tuple[str, ...]]
    limit: int

    @property
    def archive(self) -> str:
        """File name of the archive."""
        return self.url.rpartition("/")[2]

    @property
    def _all_names(self) -> list[str]:
        return [name for names in self.names.values() for name in names]

    def find(self, split: str, data_dir: str | Path | None = None) -> Iterator[tuple[str, bytes]]:
        """Yield the content of the files of a split.

        Parameters
        ----------
        split : str, a key of `self.names`
        data_dir
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
        place = self._cached() if data_dir is None else self._given(Path(data_dir))
        if place.is_dir():
            for name in self.names[split]:
                yield str(place / name), self._read(place / name)
        else:
            members = [f"{self.folder}/{name}" for name in self.names[split]]
            contents = read_members(place, members, self.limit)
            for member in members:
                yield f"{place}, {member}", contents[member]

    def _given(self, data_dir: Path) -> Path:
        for folder in (data_dir, data_dir / self.folder):
            if any((folder / name).is_file() for name in self._all_names):
                return folder
        if (data_dir / self.archive).is_file():
            return data_dir / self.archive
        wrong = f"no folder '{self.folder}' and no '{self.archive}' in it" if data_dir.is_dir() else "no such folder"
        raise UsageError(f"--data-dir {data_dir}: {wrong}; it should hold {self.title} ({self.url})")

    def _cached(self) -> Path:
        folder = cache_dir() / self.folder
        if not all((folder / name).is_file() for name in self._all_names):
            archive = fetch(self.url, self.size, self.digest)
            extract(archive, [f"{self.folder}/{name}" for name in self._all_names], cache_dir(), self.limit)
        return folder

    def _read(self, path: Path) -> bytes:
        remedy = f"unpack {self.archive} again"
        return read_bytes(path, "a file of the data set", self.limit, remedy, f"{path}: no such file; {remedy}")


@attrs.frozen
class PublishedFile:
    """A file without the ending '.gz', and the number of bytes and the digest of the file with it."""

    name: str
    size: int
    digest: str


@attrs.frozen(kw_only=True)
class PublishedFiles:
    """Files that are published one by one, compressed by gzip.

    Attributes
    ----------
    title
        What messages call all of them.
    url
        Of the folder where they are, ending in a slash.
    folder
        Where they are kept in the cache.
    files
        By split.
    """

    title: str
    url: str
    folder: str
    files: Mapping[str, tuple[PublishedFile, ...]]

    def find(self, split: str, data_dir: str | Path | None = None) -> list[Path]:
        """Find the files of a split.

        Parameters
        ----------
        split : str, a key of `self.files`
        data_dir
            Folder of the files, compressed or not, or of a folder `self.folder` with them. Not given: that folder in
            the cache, to which they are downloaded where they are missing.

        Returns
        -------
        list of pathlib.Path
            In the order of `self.files`; a compressed file ends in '.gz'.

        Raises
        ------
        UsageError
            Nothing of use in `data_dir`.
        UserError
            The download failed.
        """
        if data_dir is None:
            return [self._cached(file) for file in self.files[split]]
        return [self._given(Path(data_dir), file.name) for file in self.files[split]]

    def _given(self, data_dir: Path, name: str) -> Path:
        path = _existing(data_dir, name) or _existing(data_dir / self.folder, name)
        if path is None:
            wrong = f"no '{name}' or '{name}.gz' in it" if data_dir.is_dir() else "no such folder"
            raise UsageError(f"--data-dir {data_dir}: {wrong}; it should hold {self.title} ({self.url})")
        return path

    def _cached(self, file: PublishedFile) -> Path:
        folder = cache_dir() / self.folder
        return _existing(folder, file.name) or fetch(f"{self.url}{file.name}.gz", file.size, file.digest, folder)


def _existing(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)
