"""Pickles of plain data are read as pickle reads them; whatever would execute something is refused."""
import os
import pickle
import struct

import numpy as np
import pytest

from common.machine.errors import UserError
from common.reading import restricted_pickle

PLAIN = {
    "numbers": [0, -1, 2 ** 70, 1.5, True, None], "text": ("ä", "", b"\x00\xff", b""), b"key": {"nested": [[], {}, ()]},
    "arrays": [np.arange(6, dtype=np.uint8).reshape(2, 3), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
               np.zeros((0, 4), np.float32), np.array(3, ">i2"), np.array(["a", "bc"]), np.array([True, False])],
    "scalar": np.int64(7), (1, "pair"): "tuple as key",
}


def equal(a, b):
    if isinstance(a, np.ndarray):
        return type(b) is np.ndarray and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", range(6))
def test_plain_data_comes_back_whatever_the_protocol(protocol):
    assert equal(PLAIN, restricted_pickle.loads(pickle.dumps(PLAIN, protocol), "batch"))


def test_names_of_numpy_2_are_understood():
    content = pickle.dumps(np.arange(3), 2).replace(b"numpy.core.multiarray", b"numpy._core.multiarray")
    assert equal(np.arange(3), restricted_pickle.loads(content, "batch"))


def test_strings_of_python_2_become_bytes():
    dtype = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(K\x01K\x02t" + dtype
    content = b"\x80\x02}(U\x06labels](K\x03K\x04eU\x04data" + array + b"\x89U\x02\x05\x06tbu."
    assert equal({b"labels": [3, 4], b"data": np.array([[5, 6]], np.uint8)}, restricted_pickle.loads(content, "batch"))


def test_arrays_can_be_written_to_and_shared_containers_stay_shared():
    inner = [np.zeros(2)]
    first, second = restricted_pickle.loads(pickle.dumps([inner, inner]), "batch")
    first[0][0] = 1
    assert second[0].tolist() == [1, 0]


def test_a_list_that_holds_itself_comes_back():
    endless = [1]
    endless.append((endless,))
    result = restricted_pickle.loads(pickle.dumps(endless), "batch")
    assert result[1][0] is result


class Call:
    """Pickles to a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.reduced = function, args

    def __reduce__(self):
        return self.reduced


def global_call(module, name, argument):
    return f"c{module}\n{name}\n(V{argument}\ntR.".encode()


def gadgets(trace):
    """Return pickles that would make the file `trace`, or set out to."""
    command = f"touch {trace}"
    code = f"open({str(trace)!r}, 'w').close()"
    found = {f"protocol {protocol}": pickle.dumps(Call(os.system, command), protocol) for protocol in range(6)}
    found |= {f"{module}.{name}": global_call(module, name, argument) for module, name, argument in [
        ("os", "system", command), ("posix", "system", command), ("nt", "system", command),
        ("subprocess", "getoutput", command), ("builtins", "eval", code), ("builtins", "exec", code),
        ("__builtin__", "eval", code), ("__builtin__", "execfile", trace), ("builtins", "getattr", "x"),
        ("builtins", "__import__", "os"), ("importlib", "import_module", "os"), ("runpy", "run_path", trace),
        ("pickle", "loads", "x"), ("copyreg", "_reconstructor", "x"), ("copy_reg", "_reconstructor", "x"),
        ("numpy", "load", trace), ("numpy", "save", trace), ("numpy", "memmap", trace), ("numpy", "fromfile", trace),
        ("numpy.testing._private.utils", "runstring", code), ("numpy.f2py.capi_maps", "load_f2cmap_file", trace),
        ("numpy.core.multiarray", "fromfile", trace), ("numpy.core.multiarray", "__builtins__", "x"),
        ("numpy.core.numeric", "load", trace), ("common.machine.files", "write_text", trace),
        ("_codecs", "decode", "x")]}
    found["INST"] = f"(S'{command}'\nios\nsystem\n.".encode()
    found["OBJ"] = f"(cos\nsystem\nV{command}\no.".encode()
    found["STACK_GLOBAL with a dotted name"] = b"\x80\x04\x8c\x05numpy\x8c\x16ndarray.__class__.mro\x93."
    found["a class built by type"] = b"c__builtin__\ntype\n(VX\n(t}tR."
    found["NEWOBJ"] = b"\x80\x02c__builtin__\nobject\n)\x81."
    found["in a list after data"] = pickle.dumps([np.arange(3), "text", Call(os.system, command)])
    found["persistent id"] = b"Pos.system\n."
    found["extension code"] = b"\x80\x02\x82\x01."
    return found


@pytest.mark.parametrize("gadget", sorted(gadgets("x")))
def test_nothing_is_executed(gadget, tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(UserError, match="batch: .*(refused|damaged)") as caught:
        restricted_pickle.loads(gadgets(trace)[gadget], "batch")
    assert not trace.exists()
    assert "\n" not in str(caught.value)


DTYPE = b"cnumpy\ndtype\n(V%s\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntVb\ntR"
STATE = ARRAY + b"(I1\n(%stcnumpy\ndtype\n(V%s\ntR%sI00\nC\x08AAAAAAAAtb."


def test_flags_of_a_dtype_that_would_make_bytes_into_pointers_are_ignored():
    content = STATE % (b"I1\n", b"u8", b"(I3\nV<\nNNNI8\nI8\nI63\ntb")
    assert equal(np.array([0x4141414141414141], np.uint64), restricted_pickle.loads(content, "batch"))


@pytest.mark.parametrize("content", [
    pickle.dumps(np.array([{}], dtype=object)),                                # an array of objects
    pickle.dumps(np.zeros(2, dtype=[("x", "O")])),
    STATE % (b"I1\n", b"O8", b""),                                             # bytes as pointers
    STATE % (b"I1\n", b"V8", b"(I3\nV|\nNVx\n}I8\nI8\nI63\ntb"),
    STATE % (b"I2\n", b"u8", b""),                                             # more elements than bytes
    STATE % (b"I-1\n", b"u8", b""),
    STATE % (b"I4294967296\nI4294967296\n", b"u8", b""),
    ARRAY + b".",                                                              # no content
    DTYPE % b"u1" + b".",                                                      # what stands in for numpy
    b"cnumpy\nndarray\n.",
    b"cnumpy\nndarray\n(I1\ntR.",
    b"c_codecs\nencode\n(Vx\nVrot13\ntR.",
    b"c_codecs\nencode\n(N}Vupper\nVx\nstb.",                                  # attributes set on a stand-in
    b"c_codecs\nencode\n}Vx\nI1\nsb.",
    b"}(" + ARRAY + b"I1\nu.",                                                 # as a key
    pickle.dumps({frozenset([1]): 1}),
], ids=range(16))
def test_more_than_plain_data_is_refused(content):
    with pytest.raises(UserError, match="batch: "):
        restricted_pickle.loads(content, "batch")


def test_stand_ins_stay_as_they_were_after_a_pickle_that_sets_attributes():
    with pytest.raises(UserError):
        restricted_pickle.loads(b"c_codecs\nencode\n(N}V__class__\nI1\nstb.", "batch")
    assert restricted_pickle.loads(pickle.dumps(b"abc", 2), "batch") == b"abc"


@pytest.mark.parametrize("content", [
    b"", b"\x00" * 100, b"not a pickle", b"\x80\x09.", b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", b"(" * 99,
    b"\x80\x02Nr" + struct.pack("<I", 2 ** 31) + b".",                         # would fill 32 GB with nothing
    b"\x8e" + struct.pack("<Q", 2 ** 60) + b"x.", b"]" * 100000 + b"a" * 99999 + b".",
], ids=range(9))
def test_garbage_is_one_line_that_names_the_file(content):
    with pytest.raises(UserError, match="batch: truncated, damaged .*fetch the file again") as caught:
        restricted_pickle.loads(content, "batch")
    assert "\n" not in str(caught.value)


def test_every_truncation_is_noticed():
    content = pickle.dumps({"data": np.arange(9), "labels": [1, 2]}, 2)
    for length in range(len(content)):
        with pytest.raises(UserError):
            restricted_pickle.loads(content[:length], "batch")


@pytest.mark.filterwarnings("ignore:invalid escape sequence")    # of pickletools, about what was damaged
def test_flipped_bytes_are_read_as_data_or_refused():
    rng = np.random.default_rng(0)
    content = np.frombuffer(pickle.dumps({"data": np.arange(9), "labels": [1, 2]}, 2), np.uint8)
    for _ in range(3000):
        damaged = content.copy()
        damaged[rng.integers(len(content), size=2)] = rng.integers(256, size=2)
        try:
            restricted_pickle.loads(damaged.tobytes(), "batch")
        except UserError as error:
            assert "\n" not in str(error)
