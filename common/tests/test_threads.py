"""Transforms and filters in several threads, and in forks."""
import numpy as np

from common.machine.threads import NNABLA
from common.runs.graphs import Graphs
from common.separation import istft, multichannel_wiener, stft
from common.workbench.testing import assert_threads_share, in_fork, in_threads


def filtered(_, samples):
    """Signals of four sources (4, 2, samples), by the filter that X-UMX and UMX use."""
    audio = np.random.default_rng(samples).standard_normal((2, samples)).astype(np.float32)
    spectrum = stft(audio, 512, 128)
    shares = np.random.default_rng(0).random((4, 1, *spectrum.shape[1:]), np.float32)
    return {"stems": istft(multichannel_wiener(shares * np.abs(spectrum), spectrum), 128, length=samples)}


def test_transforms_and_filters_in_threads():
    assert_threads_share(lambda: None, filtered, (60_000, 20_001, 90_000, 3_000))


def test_loops_on_all_cores_go_on_in_a_fork():
    filtered(None, 60_000)
    assert in_fork(lambda: filtered(None, 60_000)) == ""


def test_threads_build_one_after_the_other():
    graphs, building = Graphs(limit=1), []

    def build():
        building.append(len(building))
        assert NNABLA.acquire(blocking=False)    # held by this thread
        NNABLA.release()
        return building.pop()    # not 0 if another thread were building, too

    results = in_threads([lambda k=k: [graphs.get((k, i), build) for i in range(200)] for k in range(4)])
    assert results == [[0] * 200] * 4 and len(graphs) == 1


def test_a_fork_waits_for_the_thread_that_computes():
    def check():
        with NNABLA:
            pass

    results = in_threads([lambda: [Graphs().get(0, lambda: sum(range(10_000))) for _ in range(200)],
                          lambda: [in_fork(check) for _ in range(5)]])
    assert results[1] == [""] * 5
