"""Graphs that are built once for each key, and how many of them are kept."""
import pytest

from common.runs.graphs import Graphs


@pytest.fixture
def calls():
    return []


def use(graphs, calls, key):
    return graphs.get(key, lambda: calls.append(key) or f"graph {key}")


def test_a_graph_is_built_once_for_a_key(calls):
    graphs = Graphs()
    assert [use(graphs, calls, key) for key in (1, 2, 1, 2)] == ["graph 1", "graph 2", "graph 1", "graph 2"]
    assert calls == [1, 2] and len(graphs) == 2


def test_the_graph_used_longest_ago_is_dropped_first(calls):
    graphs = Graphs(limit=2)
    for key in (1, 2, 1, 3):
        use(graphs, calls, key)
    assert [key in graphs for key in (1, 2, 3)] == [True, False, True]


def test_a_graph_is_dropped_before_another_is_built():
    graphs, held = Graphs(limit=1), []
    for key in (1, 2):
        graphs.get(key, lambda: held.append(len(graphs)))
    assert held == [0, 0]


def test_nothing_is_kept_of_a_graph_that_could_not_be_built(calls):
    graphs = Graphs()
    with pytest.raises(ZeroDivisionError):
        graphs.get(1, lambda: 1 / 0)
    assert use(graphs, calls, 1) == "graph 1"
