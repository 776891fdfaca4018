"""Measuring: things take turns, ratios are of the same round, and what is printed is what is written."""
import argparse
import json

import pytest

from common.machine.errors import UserError
from common.workbench import benchmarking
from common.workbench.benchmarking import add_benchmark_flags, compare, measure_all, median_ratio, take_turns


def test_functions_take_turns_after_a_first_call_of_each():
    calls = []
    times = take_turns({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=2)
    assert calls == list("ababab") and {name: len(row) for name, row in times.items()} == {"a": 2, "b": 2}


def test_a_function_has_ended_when_the_device_has_done_its_work(monkeypatch):
    events = []
    monkeypatch.setattr(benchmarking, "synchronize", lambda: events.append("synchronized"))
    monkeypatch.setattr(benchmarking.time, "perf_counter", lambda: events.append("time") or 0.0)
    take_turns({"function": lambda: events.append("called")}, rounds=2)
    turn = ["time", "called", "synchronized", "time"]
    assert events == ["called", "synchronized", *turn, *turn]


def test_what_computes_on_the_cpu_alone_is_left_out_on_a_gpu_in_a_line(capsys, monkeypatch, tmp_path):
    measures = {"graph": lambda: {"step": {"s": 1}}, "filter": lambda: {"filter": {"s": 2}}}
    for gpu, left in ((False, ["graph", "filter"]), (True, ["graph"])):
        monkeypatch.setattr(benchmarking, "on_gpu", lambda gpu=gpu: gpu)
        measure_all(measures, tmp_path / "numbers.json", cpu_only=["filter"])
        assert list(json.loads((tmp_path / "numbers.json").read_text())) == left
        line = "filter: left out, it computes on the CPU alone; add -c cpu to measure it\n"
        assert (line in capsys.readouterr().out) == gpu


def test_a_ratio_is_taken_within_a_round():
    assert median_ratio([1, 20, 300], [1, 10, 100]) == 2


def test_a_function_is_as_fast_as_itself():
    assert compare({"slow": lambda: sum(range(1000))}, 3, "slow")["slow"]["x faster"] == 1


def test_what_is_printed_is_written(capsys, tmp_path):
    parser = argparse.ArgumentParser()
    add_benchmark_flags(parser, rounds=3)
    args = parser.parse_args(["-o", str(tmp_path / "numbers.json"), "-c", "cpu", "-d", "1"])
    assert (args.context, args.device_id) == ("cpu", "1")
    measure_all({"size": lambda: {"file": {"MB": args.rounds}}}, args.output)
    assert capsys.readouterr().out.split() == ["size", "file", "3", "MB"]
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"size": {"file": {"MB": 3}}}


def test_numbers_that_could_not_be_written_are_not_measured(tmp_path):
    parser = argparse.ArgumentParser()
    add_benchmark_flags(parser, rounds=3)
    for name in ("a" * 300, "nosuch/numbers.json", "."):
        with pytest.raises(UserError, match="choose another --output"):
            parser.parse_args(["-o", str(tmp_path / name)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags, only", [((), ["size", "time"]), (("--only", "time"), ["time"])])
def test_parts_can_be_chosen(flags, only):
    parser = argparse.ArgumentParser()
    add_benchmark_flags(parser, rounds=3, parts={"size": 1, "time": 2})
    assert list(parser.parse_args(list(flags)).only) == only
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--only", "width"])


@pytest.mark.parametrize("rounds", ["0", "x"])
def test_there_is_at_least_one_round(rounds):
    parser = argparse.ArgumentParser()
    add_benchmark_flags(parser, rounds=3)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["--rounds", rounds])
