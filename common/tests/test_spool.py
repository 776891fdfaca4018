"""Arrays on disk: what was written is read, wherever, and errors of the disk are one line."""
import errno
import os

import numpy as np
import pytest

from common.audio import spool
from common.audio.spool import Spool, array_on_disk
from common.machine.errors import UserError

FRAMES = np.random.default_rng(0).standard_normal((23, 2, 3)).astype(np.float32)


@pytest.fixture
def filled(tmp_path):
    with Spool(tmp_path, (2, 3)) as frames:
        for start in (0, 1, 20):
            assert len(frames) == start
            frames.append(FRAMES[start:{0: 1, 1: 20}.get(start)])
        yield frames


@pytest.mark.parametrize("part", [slice(None), slice(0, 1), slice(19, 22), slice(22, 30), slice(5, 5), slice(30, 40),
                                  slice(9, 3), slice(-4, None)], ids=str)
def test_a_slice_is_one_of_what_was_added(part, filled):
    np.testing.assert_array_equal(filled[part], FRAMES[part])
    assert len(filled) == 23


@pytest.mark.parametrize("frames", [0, 1, 8, 16, 23])
def test_blocks_follow_each_other(frames, filled, monkeypatch):
    monkeypatch.setattr(spool, "BLOCK", 8)
    blocks = list(filled.blocks(frames))
    assert [len(block) for block in blocks] == [min(8, frames - start) for start in range(0, frames, 8)]
    np.testing.assert_array_equal(np.concatenate([FRAMES[:0], *blocks]), FRAMES[:frames])


def test_what_is_added_after_a_read_comes_at_the_end(tmp_path):
    with Spool(tmp_path, (2, 3)) as frames:
        for start in range(0, 23, 5):
            frames.append(FRAMES[start:start + 5])
            np.testing.assert_array_equal(frames[1:3], FRAMES[1:3])
        np.testing.assert_array_equal(frames[:], FRAMES)


def test_what_is_recorded_is_passed_on(tmp_path):
    with Spool(tmp_path, (2, 3)) as frames:
        passed = list(frames.recording(iter([FRAMES[:5], FRAMES[5:]])))
        np.testing.assert_array_equal(np.concatenate(passed), FRAMES)
        np.testing.assert_array_equal(frames[:], FRAMES)


@pytest.mark.parametrize("folder", [None, "new/folder"])
def test_an_array_keeps_what_was_written_and_leaves_no_file(folder, tmp_path):
    place = folder and tmp_path / folder
    with array_on_disk(place, FRAMES.shape) as array:
        assert not array().any()
        array()[3:7] = FRAMES[3:7]
        array()[3:7] -= 1
        np.testing.assert_array_equal(array()[3:7], FRAMES[3:7] - 1)
        assert not array()[:3].any() and not array()[7:].any()
    assert folder is None or not list(place.iterdir())


@pytest.mark.parametrize("folder, says", [(None, "set TMPDIR to a folder on another disk"),
                                          ("stems", "choose another --out-dir")])
def test_a_full_disk_is_one_line(folder, says, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.posix_fallocate", full)
    says = f"no room for 4 MB of estimates .No space left on device.; {says}"
    with pytest.raises(UserError, match=says), array_on_disk(folder, (1 << 20,)):
        pass


def test_a_folder_that_cannot_be_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: could not be written .*; choose another --out-dir"):
        Spool(tmp_path / "file", (1,))
