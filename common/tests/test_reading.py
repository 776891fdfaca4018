"""The boundary for files that others made: what is no regular file, too large, damaged, or promises too much."""
import datetime
import json
import os
import socket

import h5py
import numpy as np
import pytest

from common.machine.errors import UsageError, UserError
from common.reading.arrays import read_npy, read_npz
from common.reading.files import decoding, open_regular, read_bytes, reading
from common.reading.hdf5 import read_hdf5
from common.reading.texts import parse_json, read_json, read_rows, read_text, read_yaml

READERS = {"bytes": lambda path: read_bytes(path, "a thing", 100), "text": read_text, "json": read_json,
           "yaml": read_yaml, "rows": read_rows, "npy": read_npy, "npz": read_npz}


def refusal(read, *args):
    """Call `read`, which must fail; returns what it says, which must be one line."""
    with pytest.raises(UserError) as caught:
        read(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def odd(tmp_path):
    """{what it is: path} of all that is no regular file."""
    paths = {"a folder": tmp_path / "folder", "a pipe": tmp_path / "pipe", "a socket": tmp_path / "socket"}
    paths["a folder"].mkdir()
    os.mkfifo(paths["a pipe"])
    server = socket.socket(socket.AF_UNIX)
    here = os.getcwd()    # noqa: PTH109 - names of sockets are short
    os.chdir(tmp_path)
    server.bind("socket")
    os.chdir(here)
    yield {**paths, "a device": "/dev/zero"}
    server.close()


@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_opened(odd, reader):
    for kind, path in odd.items():
        assert refusal(READERS[reader], path).startswith(f"{path}: {kind}, not ")


def test_no_such_file_is_a_wrong_argument(tmp_path):
    for path in (tmp_path / "none", tmp_path / "none" / "x"):
        with pytest.raises(UsageError, match="none.*: no such file"):
            open_regular(path)
    with pytest.raises(UsageError, match="^train first$"):
        open_regular(tmp_path / "none", missing="train first")


def test_names_that_cannot_be_are_one_line(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "Too many levels of symbolic links" in refusal(open_regular, tmp_path / "loop")
    assert "File name too long" in refusal(open_regular, tmp_path / ("x" * 300))
    assert "null byte" in refusal(open_regular, "a\0b")


def test_a_link_to_a_file_is_followed(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", "a thing", 7) == b"content"


def test_a_size_is_checked_before_anything_is_read(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    assert refusal(read_bytes, path, "a list", 100) == (
        f"{path}: {1 << 40} bytes, more than the 100 that a list may have: refused")
    with pytest.raises(UserError, match="refused"), reading(path, "a thing"):
        raise AssertionError


@pytest.mark.parametrize("error", [ValueError("two\nlines"), KeyError("x"), RecursionError(), MemoryError(), OSError(5),
                                   AssertionError(), ValueError("\x1b[31m\u202e" + "x" * 500)])
def test_whatever_a_decoder_raises_is_one_short_line_that_names_the_file(error):
    def fail():
        with decoding("a.bin", "a list", "make it again"):
            raise error

    message = refusal(fail)
    assert message.startswith("a.bin: cannot be read as a list (") and message.endswith("); make it again")
    assert len(message) < 200 and message.isprintable()


def test_an_interruption_is_no_damage():
    with pytest.raises(KeyboardInterrupt), decoding("a.bin", "a list"):
        raise KeyboardInterrupt


# Texts ------------------------------------------------------------------------------------------------------------


def written(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_with_any_line_ends(tmp_path):
    assert read_text(written(tmp_path, b"\xef\xbb\xbfone\r\ntwo\rthr\xc3\xa9e\n")) == "one\ntwo\nthr\u00e9e\n"
    assert "no UTF-8 at byte 1" in refusal(read_text, written(tmp_path, b"a\xff"))


@pytest.mark.parametrize("content", ["", "{", "[" * 10**6, '{"a":' * 10**5, "nul", "[1,]", "\0"])
def test_damaged_json_is_one_line(tmp_path, content):
    assert "file: cannot be read as a JSON file (" in refusal(read_json, written(tmp_path, content))
    assert "x, the header: cannot be read as a JSON file" in refusal(parse_json, content, "x, the header")


def test_json(tmp_path):
    value = {"a": [1, 2.5, None, True, "\u00e9"]}
    assert read_json(written(tmp_path, json.dumps(value))) == value


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 8)}]\n" for k in range(1, 30))


@pytest.mark.parametrize("content", [BOMB, "a: &a [*a]", "&a {b: *a}", "&a [[[*a]]]"])
def test_yaml_that_repeats_much_or_itself_is_refused(tmp_path, content):
    assert ": an alias repeats more values than 131072, or itself: refused" in refusal(
        read_yaml, written(tmp_path, content))


@pytest.mark.parametrize("content", ["a: 2001-99-99", "a: 1:99:99:x:[", "[" * 50000, "a: !!python/name:os.system",
                                     "\0", "{a: b", "? [a]: b", "a: !!float x", "a: !!int ''",
                                     "a: 2001-01-01 99:00:00", "--- 1\n--- 2", "a: 0b", "%YAML 9.9\n---\n1"])
def test_damaged_yaml_is_one_line_or_a_value(tmp_path, content):
    try:
        read_yaml(written(tmp_path, content))
    except UserError as error:
        assert str(error).startswith(f"{tmp_path / 'file'}: ") and str(error).isprintable()
    else:
        assert content in ("a: 1:99:99:x:[", "a: 0b", "%YAML 9.9\n---\n1")


def test_yaml(tmp_path):
    content = "a: &a [1, 2.5, null, yes]\nb: {c: text}\nd: 2001-02-03\ne: *a\n"
    assert read_yaml(written(tmp_path, content)) == {
        "a": [1, 2.5, None, True], "b": {"c": "text"}, "d": datetime.date(2001, 2, 3), "e": [1, 2.5, None, True]}


def test_yaml_of_unusual_length_is_not_parsed(tmp_path):
    assert "refused" in refusal(read_yaml, written(tmp_path, "- x\n" * 10**5))


def test_rows(tmp_path):
    path = written(tmp_path, 'x,y\r\n1,"a, b"\r\n\r\n2,"two\r\nlines"\r\n')
    assert read_rows(path, columns=["y"]) == [{"x": "1", "y": "a, b"}, {"x": "2", "y": "two\nlines"}]
    assert refusal(read_rows, path, "a list of scores", ["z"]).startswith(
        f"{path}: cannot be read as a list of scores (the first line must have the columns 'z')")


@pytest.mark.parametrize("content, said", [
    ("x,y\n1,2\n3\n", "line 3: 1 columns, but 2 in the first line"),
    ("x,y\n1,2,3\n", "line 2: 3 columns, but 2 in the first line"),
    ("x,y\n1," + "9" * 200000, "field larger than field limit"), ("x,y\n1,\0", "line contains NUL")])
def test_damaged_rows_are_one_line(tmp_path, content, said):
    assert said in refusal(read_rows, written(tmp_path, content))


# Arrays -----------------------------------------------------------------------------------------------------------

ARRAYS = {"row": np.arange(3), "empty": np.zeros((0, 3), np.float32), "scalar": np.array(2.5), "bool": np.array([True]),
          "text": np.array(["a", "bcd"]), "bytes": np.array([b"a", b"bc"]), "big endian": np.arange(3, dtype=">i4"),
          "fortran": np.asfortranarray(np.arange(24.0).reshape(2, 3, 4)), "strided": np.arange(10)[::3]}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_come_back_as_numpy_reads_them(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = read_npz(tmp_path / "a.npz")
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        np.save(tmp_path / "a.npy", array)
        for value in (found[name], read_npy(tmp_path / "a.npy")):
            assert value.dtype == array.dtype and value.shape == array.shape and value.flags.writeable
            np.testing.assert_array_equal(value, array)


def test_only_the_named_arrays_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.arange(3), b=np.arange(2))
    assert list(read_npz(tmp_path / "a.npz", names=["b"])) == ["b"]
    assert "no array 'c' in it" in refusal(read_npz, tmp_path / "a.npz", "a record", ["b", "c"])


def npy(shape, descr="<f4", content=b""):
    """Bytes of a .npy file with any header."""
    header = str({"descr": descr, "fortran_order": False, "shape": shape}).encode()
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + content


@pytest.mark.parametrize("content", [
    npy((10**12,)), npy((-1,)), npy((True,), content=bytes(4)), npy((2, 10**30)), npy((1,), "|O", bytes(8)),
    npy((1,), [("a", "<f4")], bytes(4)), npy((3,), content=bytes(11)), npy((3,), content=bytes(13)),
    npy((10**9,), "|V0"), npy((10**9,), "<U0"), npy((1,), "<M8[s]", bytes(8)), npy("x"), npy((1,), "(" * 99), b"",
    b"\x93NUMPY\1\0\xff\xff", b"\x93NUMPY\3\0" + npy((1,), content=bytes(4))[8:], b"\x93NUMPY\1\0\x0a\0" + b"(" * 10])
def test_an_array_must_hold_what_its_header_promises(tmp_path, content):
    path = written(tmp_path, content)
    assert "file: cannot be read as an array of NumPy" in refusal(read_npy, path)


def test_a_damaged_npz_is_one_line(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.random.default_rng(0).normal(size=100).round(1))
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1:])
        try:
            assert read_npz(path).keys()
        except UserError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        path.write_bytes(content[:at])
        refusal(read_npz, path)


# HDF5 -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hdf5(tmp_path):
    return h5py.File(tmp_path / "a.h5", "w")


def read_all(path):
    with read_hdf5(path) as file:
        return {name: file.array(name) for name in file.datasets}


def test_data_sets_of_hdf5(hdf5):
    hdf5["scope/W"] = np.arange(6, dtype=np.float32).reshape(2, 3)
    hdf5["scalar"], hdf5["empty"] = np.float64(2.5), np.zeros((0, 3), np.float32)
    hdf5.create_dataset("packed", data=np.zeros((300, 300)), compression="gzip", shuffle=True)
    path = hdf5.filename
    hdf5.close()
    found = read_all(path)
    assert {name: array.shape for name, array in found.items()} == {
        "scope/W": (2, 3), "scalar": (), "empty": (0, 3), "packed": (300, 300)}
    np.testing.assert_array_equal(found["scope/W"], np.arange(6).reshape(2, 3))
    with read_hdf5(path) as file:
        assert set(file.group("")) == {"scope", "scalar", "empty", "packed"} and set(file.group("scope")) == {"W"}
        assert all(file.group(name) is None for name in ("none", "scalar", "scope/W", "none/deeper", "/"))
        assert "no data set 'other'" in refusal(file.array, "other")


@pytest.mark.parametrize("how", [{}, {"chunks": (1 << 20,)}, {"chunks": (1 << 20,), "compression": "gzip"}])
def test_hdf5_that_promises_a_terabyte_is_refused(hdf5, how):
    hdf5.create_dataset("W", (3 << 38,), np.float32, **how)
    path = hdf5.filename
    hdf5.close()
    assert f"'W' promises {3 << 40} bytes" in refusal(read_all, path)


def test_hdf5_with_enormous_chunks_is_refused(hdf5):
    hdf5.create_dataset("W", (1,), "f8", chunks=(1 << 28,), maxshape=(None,))
    path = hdf5.filename
    hdf5.close()
    assert "'W' is stored in a way that is not read" in refusal(read_all, path)


def test_hdf5_leads_to_no_other_file(tmp_path, hdf5):
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["W"] = np.ones(3)
    (tmp_path / "raw").write_bytes(bytes(24))
    hdf5["linked"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "W")
    hdf5["linked group"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/")
    hdf5["loop"] = h5py.SoftLink("/")
    hdf5.create_dataset("outside", (3,), "f8", external=[(str(tmp_path / "raw"), 0, 24)])
    layout = h5py.VirtualLayout((3,), "f8")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "W", (3,))
    hdf5.create_virtual_dataset("virtual", layout)
    hdf5["own"] = np.ones(2)
    hdf5["soft"] = h5py.SoftLink("/own")
    path = hdf5.filename
    hdf5.close()
    assert list(read_all(path)) == ["own"]
    with read_hdf5(path) as file:
        assert all(file.group(name) is None for name in ("linked group", "loop", "loop/loop"))


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"no HDF5" * 100])
def test_what_is_no_hdf5_is_one_line(tmp_path, content):
    assert "file: cannot be read as an HDF5 file (" in refusal(read_all, written(tmp_path, content))
