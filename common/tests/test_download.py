"""Downloads from a server on this machine: whole, resumed, damaged, absent; archives that mean no good."""
import gzip
import hashlib
import http.server
import io
import socket
import tarfile
import threading
import urllib.error
import urllib.request
import zipfile

import pytest

from common.downloads import fetch as download
from common.machine.cache import cache_dir, make_cache_folder
from common.machine.errors import UserError
from common.machine.streams import printing
from common.reading import archives

CONTENT = bytes(range(256)) * 4096    # four blocks
SIZE, MD5 = len(CONTENT), f"md5:{hashlib.md5(CONTENT).hexdigest()}"
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
pytestmark = pytest.mark.usefixtures("cache")


class Server(http.server.ThreadingHTTPServer):
    """Sends `content` under any name; `ranges` says whether it can start in the middle, `stop` where it breaks off."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.stop, self.status, self.tells_size = CONTENT, True, None, 200, True
        self.asked = []    # the Range header of each request, or None
        self.url = f"http://127.0.0.1:{self.server_port}/files/set%20one.bin?download=1"

    def handle_error(self, *args):
        """Say nothing about clients that hang up."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):    # noqa: N802
        asked = self.headers["Range"]
        self.server.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        self.send_response(206 if start else self.server.status)
        self.send_header("Content-Length", str(len(self.server.content) - start))
        self.end_headers()
        self.wfile.write(self.server.content[start:self.server.stop])

    def do_HEAD(self):    # noqa: N802
        self.server.asked.append("HEAD")
        self.send_response(self.server.status)
        if self.server.tells_size:
            self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def files(folder):
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("digest", [MD5, SHA256])
def test_a_file_is_downloaded_once_into_the_cache(server, cache, digest):
    path = download.fetch(server.url, SIZE, digest)
    assert path == download.fetch(server.url, SIZE, digest) == cache / "set one.bin"
    assert path.read_bytes() == CONTENT
    assert server.asked == [None]
    assert files(cache) == ["set one.bin"]


def test_the_cache_is_in_the_home_folder_unless_said_otherwise(monkeypatch):
    monkeypatch.delenv("SONY_PAPERS_CACHE")
    monkeypatch.setenv("HOME", "/home/someone")
    assert str(cache_dir()) == "/home/someone/.cache/sony-papers"


def test_a_download_that_broke_off_is_resumed_where_it_stopped(server, cache):
    server.stop = 700000
    with pytest.raises(UserError, match="ended after 700000 of 1048576 bytes.*run again to go on"):
        download.fetch(server.url, SIZE, MD5)
    assert files(cache) == ["set one.bin.part"]
    server.stop = None
    assert download.fetch(server.url, SIZE, MD5).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=700000-"]
    assert files(cache) == ["set one.bin"]


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("left", [CONTENT[:5], b"", b"of another file", CONTENT, b"x" * SIZE, CONTENT + b"more"],
                         ids=["beginning", "nothing", "other", "whole", "damaged", "longer"])
def test_whatever_an_earlier_download_left_the_result_is_right(server, cache, left, ranges):
    server.ranges = ranges
    cache.mkdir()
    (cache / "set one.bin.part").write_bytes(left)
    assert download.fetch(server.url, SIZE, MD5).read_bytes() == CONTENT
    assert files(cache) == ["set one.bin"]


@pytest.mark.parametrize("content", [b"x" * SIZE, CONTENT + b"more"])
def test_other_content_is_not_kept(server, cache, content):
    server.content = content
    with pytest.raises(UserError, match="sent other content") as caught:
        download.fetch(server.url, SIZE, MD5)
    assert MD5 in str(caught.value)
    assert files(cache) == []


def test_no_more_is_received_than_was_promised(server, cache):
    server.content = CONTENT * 20
    make_cache_folder(cache)
    download._receive(server.url, SIZE, cache / "part")
    assert (cache / "part").stat().st_size == SIZE + 1


def test_a_file_that_is_not_the_published_one_is_left_alone_and_named(server, cache):
    cache.mkdir()
    (cache / "set one.bin").write_bytes(b"mine")
    with pytest.raises(UserError, match=r"set one.bin: not the published file \(1048576 bytes, md5:.*remove it"):
        download.fetch(server.url, SIZE, MD5)
    assert (cache / "set one.bin").read_bytes() == b"mine"


def test_with_no_server_one_line_says_which_file_to_put_where(server, cache):
    server.server_close()    # nobody listens there now
    url = server.url.replace(str(server.server_port), "1")
    with pytest.raises(UserError) as caught:
        download.fetch(url, SIZE, MD5)
    message = str(caught.value)
    assert f"(Connection refused); run again to go on, or put the file at {cache / 'set one.bin'} by hand" in message
    assert f"({SIZE} bytes, {MD5})" in message
    assert "\n" not in message


def test_a_refusing_server_is_quoted(server):
    server.status = 404
    with pytest.raises(UserError, match=r"failed \(HTTP 404 Not Found\)"):
        download.fetch(server.url, SIZE, MD5)


def test_a_cache_that_cannot_be_made_is_one_line(server, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match="set SONY_PAPERS_CACHE to a writable folder"):
        download.fetch(server.url, SIZE, MD5)


def test_many_who_ask_at_once_cause_one_download(server):
    paths = []
    threads = [threading.Thread(target=lambda: paths.append(download.fetch(server.url, SIZE, MD5))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(paths) == 5
    assert server.asked == [None]


def test_progress_is_silent_where_stdout_is_no_terminal(server, capfd):
    download.fetch(server.url, SIZE, MD5)
    assert capfd.readouterr() == ("", "")


def test_the_bar_of_a_download_stays_in_its_line(server, monkeypatch):
    out, err = (type("Terminal", (io.StringIO,), {"isatty": lambda self: True})() for _ in range(2))
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setattr("sys.stderr", err)
    with printing():
        download.fetch(server.url, SIZE, MD5)
    assert "set one.bin" in err.getvalue() and "\r" in err.getvalue() and "\\r" not in err.getvalue()
    assert out.getvalue() == ""


# Files of which nothing was published ---------------------------------------------------------------------------------


def test_a_file_of_unusual_size_is_not_fetched(server, cache, monkeypatch):
    monkeypatch.setattr(download, "LARGEST", len(CONTENT) - 1)
    with pytest.raises(UserError, match=f"it announces {len(CONTENT)} bytes, and {len(CONTENT) - 1} are allowed"):
        download.fetch_first_seen(server.url)


def test_a_download_that_takes_too_long_stops(server, cache, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", -1e9)
    with pytest.raises(UserError, match="slower than"):
        download.fetch_first_seen(server.url)


def test_the_first_download_settles_what_a_file_is(server, cache, capfd):
    path = download.fetch_first_seen(server.url)
    assert f"note: {path}: not verified" in capfd.readouterr().err
    assert path == cache / "set one.bin"
    assert path.read_bytes() == CONTENT
    assert (cache / "set one.bin.sha256").read_text() == f"{SHA256}\n"
    assert download.fetch_first_seen(server.url) == path
    assert server.asked == ["HEAD", None]
    assert "verified" not in capfd.readouterr().err
    path.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match=f"set one.bin: not the published file .*{SHA256}.*remove it"):
        download.fetch_first_seen(server.url)


@pytest.mark.parametrize("content", [b"older", b"older, and of another length"])
def test_a_file_that_was_removed_is_fetched_anew(server, cache, content):
    server.content = content
    download.fetch_first_seen(server.url).unlink()
    server.content = CONTENT
    assert download.fetch_first_seen(server.url).read_bytes() == CONTENT
    assert (cache / "set one.bin.sha256").read_text() == f"{SHA256}\n"


def test_a_file_put_there_by_hand_is_taken_as_it_is(server, tmp_path):
    (tmp_path / "set one.bin").write_bytes(CONTENT)
    assert download.fetch_first_seen(server.url, tmp_path) == tmp_path / "set one.bin"
    assert (tmp_path / "set one.bin.sha256").read_text() == f"{SHA256}\n"
    assert server.asked == []


def test_the_first_download_is_resumed_where_it_stopped(server, cache):
    server.stop = 700000
    with pytest.raises(UserError, match=r"ended after 700000 of 1048576 bytes.* by hand \(1048576 bytes\)"):
        download.fetch_first_seen(server.url)
    assert files(cache) == ["set one.bin.part"]
    server.stop = None
    assert download.fetch_first_seen(server.url).read_bytes() == CONTENT
    assert server.asked == ["HEAD", None, "HEAD", "bytes=700000-"]
    assert files(cache) == ["set one.bin", "set one.bin.sha256"]


def refused_first_download(url, cache):
    with pytest.raises(UserError) as caught:
        download.fetch_first_seen(url)
    message = str(caught.value)
    assert message.startswith("set one.bin: download from http://127.0.0.1:")
    assert f"put the file at {cache / 'set one.bin'} by hand" in message
    assert "\n" not in message
    return message


def test_a_server_that_does_not_tell_the_size_is_one_line(server, cache):
    server.tells_size = False
    refused_first_download(server.url, cache)


def test_a_server_without_the_file_or_none_is_one_line(server, cache):
    server.status = 404
    assert "(HTTP 404 Not Found)" in refused_first_download(server.url, cache)
    url = server.url.replace(str(server.server_port), "1")
    assert "(Connection refused)" in refused_first_download(url, cache)


# Archives -------------------------------------------------------------------------------------------------------------


def member(name, content=b"", kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content), kind, link
    return info, content


def make_tar(path, *members):
    with tarfile.open(path, "w:gz") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return path


def test_only_wanted_members_are_extracted(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", member("./set", kind=tarfile.DIRTYPE), member("set/other", b"no"),
                       member("./set/one", b"1"), member("set/two", b"22"))
    download.extract(archive, ["set/one", "set/two"], tmp_path / "out", limit=10)
    assert (tmp_path / "out/set/one").read_bytes() == b"1"
    assert files(tmp_path / "out/set") == ["one", "two"]


@pytest.mark.parametrize("hostile", [
    member("/set/one", b"1"), member("../set/one", b"1"), member("set/../../one", b"1"),
    member("set/one", kind=tarfile.SYMTYPE, link="/etc/passwd"),
    member("set/one", kind=tarfile.LNKTYPE, link="set/zero"),
    member("set/one", kind=tarfile.FIFOTYPE), member("set/one", kind=tarfile.DIRTYPE), member("set/one", b"1" * 11),
], ids=["absolute", "above", "above inside", "symbolic link", "hard link", "pipe", "folder", "too large"])
def test_a_hostile_archive_is_refused(tmp_path, hostile):
    archive = make_tar(tmp_path / "a.tar.gz", member("set/zero", b"0"), hostile, member("set/one", b"1"))
    with pytest.raises(UserError, match="a.tar.gz: member .* refused"):
        download.extract(archive, ["set/zero", "set/one"], tmp_path / "out", limit=10)
    assert not (tmp_path / "out").exists()


def test_a_link_before_a_file_leads_nowhere(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", member("set", kind=tarfile.SYMTYPE, link=str(tmp_path / "elsewhere")),
                       member("set/one", b"1"))
    (tmp_path / "elsewhere").mkdir()
    download.extract(archive, ["set/one"], tmp_path / "out", limit=10)
    assert files(tmp_path / "elsewhere") == []


def test_a_missing_member_is_named(tmp_path):
    archive = make_tar(tmp_path / "a.tar.gz", member("set/one", b"1"))
    with pytest.raises(UserError, match=r"no 'set/two' in this archive \(1 of 2 files missing\)"):
        archives.read_members(archive, ["set/one", "set/two"], limit=10)


def test_a_damaged_archive_is_one_line(tmp_path):
    content = make_tar(tmp_path / "a.tar.gz", member("set/one", bytes(range(256)) * 40)).read_bytes()
    for damaged in (b"", b"no archive", content[:-40], content[:80], content[:100] + b"\xff" * 20 + content[120:]):
        (tmp_path / "a.tar.gz").write_bytes(damaged)
        with pytest.raises(UserError, match="a.tar.gz: ") as caught:
            archives.read_members(tmp_path / "a.tar.gz", ["set/one"], limit=1 << 20)
        assert "\n" not in str(caught.value)


each_compression = pytest.mark.parametrize(
    "compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])


def make_zip(path, compression=zipfile.ZIP_DEFLATED, **members):
    """Write an archive; '__' in a name stands for a folder."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


@each_compression
def test_wanted_files_of_a_zip_archive_are_found_in_any_folder(tmp_path, compression):
    archive = make_zip(tmp_path / "a.zip", compression, one=b"1", a__b__two=b"22", other__one=b"no", three=b"no")
    assert archives.read_zip(archive, ["two", "one"], limit=2) == {"one": b"1", "two": b"22"}
    assert files(tmp_path) == ["a.zip"]


def test_a_large_file_in_a_zip_archive_is_refused_unless_nobody_wants_it(tmp_path):
    archive = make_zip(tmp_path / "a.zip", one=b"1", a__two=b"2" * 1000)
    assert archives.read_zip(archive, ["one"], limit=999) == {"one": b"1"}
    with pytest.raises(UserError, match="a.zip: member 'a/two' has 1000 bytes, more than 999, refused"):
        archives.read_zip(archive, ["one", "two"], limit=999)


def test_a_file_that_is_larger_than_the_zip_archive_says_is_refused(tmp_path):
    archive = make_zip(tmp_path / "a.zip", one=b"1" * 1000)
    content = archive.read_bytes()
    assert content.count((1000).to_bytes(4, "little")) == 2    # before the file, and in the list at the end
    archive.write_bytes(content.replace((1000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    with pytest.raises(UserError, match="a.zip: cannot be read as a ZIP archive"):
        archives.read_zip(archive, ["one"], limit=10)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_archive_whose_unpacking_has_no_bound_is_refused(tmp_path, compression):
    archive = make_zip(tmp_path / "a.zip", compression, one=b"1")
    with pytest.raises(UserError, match="a.zip: member 'one' is compressed in an unusual way, refused"):
        archives.read_zip(archive, ["one"], limit=10)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.GNUTYPE_SPARSE])
def test_a_header_of_a_gigabyte_in_a_tar_archive_is_not_read(tmp_path, kind):
    header = tarfile.TarInfo("name")
    header.type, header.size = kind, 1 << 30
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(header.tobuf() + bytes(10240)))
    with pytest.raises(UserError, match="a.tar.gz: .*a header of unusual length or kind"):
        archives.read_members(tmp_path / "a.tar.gz", ["one"], limit=10)


def test_a_tar_archive_that_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_ALWAYS", 1 << 16)
    archive = make_tar(tmp_path / "a.tar.gz", member("zeros", bytes(1 << 22)), member("one", b"1"))
    with pytest.raises(UserError, match="a.tar.gz: unpacks to far more than an archive of its size, refused"):
        archives.read_members(archive, ["one"], limit=10)


@pytest.mark.parametrize("before, after, allowed", [
    ("https://a/x", "http://a/x", False), ("https://a/x", "ftp://a/x", False), ("https://a/x", "https://b/x", True),
    ("http://a/x", "http://b/x", True), ("http://a/x", "https://b/x", True)])
def test_no_redirection_leads_down_from_https(before, after, allowed):
    request = urllib.request.Request(before)
    arguments = (request, None, 302, "Found", {}, after)
    if allowed:
        assert download._NoStepDown().redirect_request(*arguments).full_url == after
    else:
        with pytest.raises(urllib.error.URLError, match="it leads from https to"):
            download._NoStepDown().redirect_request(*arguments)


def test_a_file_missing_in_a_zip_archive_is_named(tmp_path):
    archive = make_zip(tmp_path / "a.zip", one=b"1", two__x=b"2")
    with pytest.raises(UserError, match=r"a.zip: no 'three' in this archive \(2 of 3 files missing\)"):
        archives.read_zip(archive, ["one", "two", "three"], limit=10)


def test_a_damaged_or_encrypted_zip_archive_is_one_line(tmp_path):
    archive = make_zip(tmp_path / "a.zip", one=bytes(range(256)) * 40)
    content = archive.read_bytes()
    # Bit 0 of the flags, at 6 and 8 of the two headers, marks a file that is encrypted.
    flags = (content.index(b"PK\3\4") + 6, content.index(b"PK\1\2") + 8)
    encrypted = bytes(byte | (at in flags) for at, byte in enumerate(content))
    for damaged in (b"", b"no archive", content[:-40], content[:100], encrypted):
        archive.write_bytes(damaged)
        with pytest.raises(UserError, match="a.zip: cannot be read as a ZIP archive") as caught:
            archives.read_zip(archive, ["one"], limit=1 << 20)
        assert "\n" not in str(caught.value)


@each_compression
def test_a_zip_archive_damaged_within_a_file_is_one_line(tmp_path, compression):
    archive = make_zip(tmp_path / "a.zip", compression, one=bytes(range(256)) * 40)
    content = archive.read_bytes()
    archive.write_bytes(bytes(byte ^ (255 * (60 <= at < 69)) for at, byte in enumerate(content)))
    with pytest.raises(UserError, match="a.zip: cannot be read as a ZIP archive"):
        archives.read_zip(archive, ["one"], limit=1 << 20)


# A quick question -----------------------------------------------------------------------------------------------------


def test_a_server_that_has_the_file_is_no_reason(server):
    assert download.why_not_there(server.url) is None and server.asked == ["HEAD"]


def test_a_server_without_the_file_says_so(server):
    server.status = 404
    assert "404" in download.why_not_there(server.url)


def test_nobody_at_the_address_is_known_at_once():
    assert "refused" in download.why_not_there("http://127.0.0.1:1/weights.h5").lower()


def test_a_server_that_says_nothing_is_given_up_soon():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/weights.h5"
        assert "0.2 s" in download.why_not_there(url, seconds=0.2)
