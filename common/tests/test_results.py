"""Numbers of READMEs beside what their commands print: what is wrong fails."""
import importlib.util
import json
from pathlib import Path

import pytest

from common.machine.errors import UsageError, UserError
from common.workbench import results

TOP = Path(__file__).resolve().parents[2]
CLAIMS = """
paths:
  words: a folder with a file of words
claims:
  made:
    claim: A made-up command.
    level: quick
    command: python paper/work.py
    values:
      error: {pattern: 'error ([0-9.]+)%', tolerance: 0.5}
      size: {file: made.json, path: sizes/1, tolerance: 10 %}
      table: {pattern: '^(?P<row>[ab] +\\d) +(\\d+) +(\\d+)', tolerance: 0}
  slow:
    claim: What takes a day.
    level: day
    after: made
    command: test -e made.json && echo "error 5%"
    values:
      error: {pattern: 'error (\\d)%'}
  read:
    claim: What is in a folder of the user's.
    level: gpu
    command: echo "error ${NONE:-5}%"; cat {words}/words
    values:
      words: {pattern: 'two (\\w+)'}
  after_read:
    claim: What comes after it.
    level: gpu
    after: read
    command: cat {words}/words
blocks:
  first: |
    | {made[error]} % | {made[size]:.1f} kB | {made[table][b 2][1]} |
"""
WORK = """
import json
print("error 9%\\nerror 6.13%, a  1 10 11\\na  1 10 11\\nb  2 20 21")
json.dump({"sizes": [1, 2.5]}, open("made.json", "w"))
"""
VALUES = {"error": "6.13", "size": 2.5, "table": {"a 1": ["10", "11"], "b 2": ["20", "21"]}}
README = "Before.\n\n<!-- results: first -->\n| 6.13 % | 2.5 kB | 21 |\n<!-- end of results -->\n\nAfter.\n"


@pytest.fixture
def top(tmp_path, monkeypatch):
    """A repository with one paper, whose README, data and command agree; `top(...)` is a call of tools/results.py."""
    for folder in ("paper", "common", "tools", "results"):
        (tmp_path / folder).mkdir()
    (tmp_path / "results/paper.yaml").write_text(CLAIMS)
    (tmp_path / "results/paper.json").write_text(json.dumps({"made": {"values": VALUES, "seconds": 2}}))
    (tmp_path / "paper/README.md").write_text(README)
    (tmp_path / "paper/work.py").write_text(WORK)
    spec = importlib.util.spec_from_file_location("tools_results", TOP / "tools/results.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, "TOP", tmp_path)
    monkeypatch.setattr(tool, "FOLDER", tmp_path / "results")
    monkeypatch.chdir(tmp_path)
    return lambda *argv: tool.main(argv)


def change(path, before, after):
    text = Path(path).read_text()
    assert before in text
    Path(path).write_text(text.replace(before, after))


def test_what_is_as_stated_passes(top, capsys):
    assert top("quick") == 0
    assert capsys.readouterr().out.startswith("paper/made: as stated (")
    assert sorted(path.name for path in Path("paper").iterdir()) == ["README.md", "work.py"]    # it ran elsewhere


@pytest.mark.parametrize("before, after, words", [
    ("error 6.13%", "error 6.64%", "paper/made: error is 6.64, stated 6.13 ("),
    ("error 6.13%", "error many%", "paper/made: error is 9, stated 6.13 ("),
    ("2.5]", "2.76]", "paper/made: size is 2.76, stated 2.5 ("),
    ("2.5]", "]", "paper/made: made.json: no 'sizes/1' in it"),
    ("b  2 20 21", "b  2 20 22", "paper/made: table b 2: is 22, stated 21 ("),
    ("b  2 20 21", "b  3 20 21", "paper/made: table is {"),
    ("error", "mistake", "paper/made: the output: nothing like 'error"),
    ('"made.json"', '"else.json"', "paper/made: made.json: No such file"),
    ("json.dump", "\nprint('too bad'); exit(3)\njson.dump", "paper/made: the command ended with status 3: too bad"),
])
def test_a_command_that_gives_something_else_fails(top, capsys, before, after, words):
    change("paper/work.py", before, after)
    assert top("quick") == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("before, after", [("error 6.13%", "error 6.5%"), ("2.5]", "2.7]")])
def test_what_is_within_the_tolerance_passes(top, before, after):
    change("paper/work.py", before, after)
    assert top("quick") == 0


@pytest.mark.parametrize("before, after, words", [
    ("results: first", "results: second", "0 blocks <!-- results: first -->"),
    ("results: first", "results: second", "block second is of no file of claims"),
    ("<!-- end of results -->", "", "0 blocks"),
    ("6.13 %", "6.14 %", "block first differs from the data"),
])
def test_a_readme_that_differs_from_the_data_fails(top, capsys, before, after, words):
    change("paper/README.md", before, after)
    assert top("--check") == 1
    assert words in capsys.readouterr().out


@pytest.mark.parametrize("by_processor, machine, status", [
    ("true", "2 cores, Other, busy", 0), ("false", "2 cores, Other", 1), ("true", None, 1)])
def test_another_processor_may_give_something_else_where_the_claim_says_so(top, capsys, by_processor, machine, status):
    assert top("quick", "--write") == 0    # writes down what this machine is
    change("results/paper.yaml", "    level: quick", f"    level: quick\n    by_processor: {by_processor}")
    if machine:
        data = json.loads(Path("results/paper.json").read_text())
        data["made"]["machine"] = machine
        Path("results/paper.json").write_text(json.dumps(data))
    assert top("quick") == 0
    capsys.readouterr()
    change("paper/work.py", "error 6.13%", "error 7%")
    assert top("quick") == status
    end = ", as may be on another processor than Other (" if status == 0 else " ("
    assert f"paper/made: error is 7, stated 6.13{end}" in capsys.readouterr().out


def test_writing_changes_data_and_readme(top):
    change("paper/work.py", "6.13", "7.5")
    assert top("quick", "--write") == 0
    assert Path("paper/README.md").read_text() == README.replace("6.13", "7.5")
    made = json.loads(Path("results/paper.json").read_text())["made"]
    assert made["values"] == {**VALUES, "error": "7.5"}
    assert isinstance(made["seconds"], float) and "cores" in made["machine"]
    assert top("quick") == 0


def test_a_claim_runs_after_the_one_that_it_needs(top, capsys):
    assert top("day", "--write") == 0
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["paper/made", "paper/slow"]


def test_a_claim_is_left_out_whose_folder_is_not_named(top, capsys):
    assert top("gpu") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"paper/{name}: left out; --path words=PATH runs it (words: a folder with a file of words)"
        for name in ("read", "after_read")]


def test_a_named_folder_stands_in_the_command(top, capsys):
    folder = Path("folder 'of' $words")
    folder.mkdir()
    (folder / "words").write_text("two words\n")
    assert top("gpu", "--path", f"words={folder}", "--write") == 0
    assert json.loads(Path("results/paper.json").read_text())["read"]["values"] == {"words": "words"}
    assert top("gpu", "--path", f"words={folder}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(" (")[0] for line in lines[2:]] == ["paper/read: as stated",
                                                                 "paper/after_read: no value of it is stated"]


def test_commands_that_need_nothing_of_each_other_run_at_a_time(top, capsys):
    """Each waits for the other; `slow` needs a file that `made` leaves in the folder of both."""
    wait = "touch {0}/{1}; until test -e {0}/{2}; do sleep 0.01; done"
    change("results/paper.yaml", "    command: python paper/work.py",
           f"    command: {wait.format(Path.cwd(), 1, 2)}; python paper/work.py")
    change("results/paper.yaml", "    level: day", "    level: quick")
    change("results/paper.yaml", "    level: gpu\n    command: echo",
           f"    level: quick\n    command: {wait.format(Path.cwd(), 2, 1)}; echo")
    Path("words").write_text("two words")
    top("quick", "--jobs", "2", "--path", "words=.")
    lines = sorted(line.partition(" (")[0] for line in capsys.readouterr().out.splitlines())
    assert lines == ["paper/made: as stated", "paper/read: words is not stated", "paper/slow: error is not stated"]


def test_what_takes_too_long_is_left_out(top, capsys):
    assert top("quick", "--within", "1") == 0
    assert top("day", "--within", "9") == 0    # never measured
    assert not capsys.readouterr().out


@pytest.mark.parametrize("argv, words", [
    (("day", "--path", "words=nowhere"), "nothing at nowhere"), (("day", "--path", "wrds=."), "one of the names words"),
    (("day", "--path", "words"), "nothing at"),
    ((), "no arguments"), (("--within", "3"), "name a level"), (("quick", "--only", "paper/mad"), "no such claim"),
    (("week",), "week"), (("quick", "--jobs", "2", "--write"), "run alone")])
def test_wrong_arguments(top, argv, words):
    with pytest.raises(UsageError, match=words):
        top(*argv)


@pytest.mark.parametrize("before, after, words", [
    ("level: quick", "level: soon", "paper.yaml, made"),
    ("level: quick", "levl: quick", "paper.yaml, made"),
    ("level: quick", "level: quick\n    by_processor: 2", "paper.yaml, made"),
    ("{words}/words", "{wrds}/words", "read: {wrds} is not among the paths"),
    ("made[error]", "made[eror]", "block first: KeyError 'eror'"),
])
def test_a_wrong_claim_is_named(top, before, after, words):
    change("results/paper.yaml", before, after)
    with pytest.raises(UserError, match=words):
        top("--check")


def test_the_readmes_of_this_repository_have_the_numbers_of_its_data():
    for path in sorted((TOP / "results").glob("*.yaml")):
        stated = results.load(path, path.with_suffix(".json"), TOP / path.stem / "README.md")
        assert not results.wrong_blocks(stated)
        assert stated.measured.keys() <= stated.claims.keys()
