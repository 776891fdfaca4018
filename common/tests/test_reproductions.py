"""The pages of what is reproduced: verdicts follow from numbers, texts from data, and the page can be worked with."""
import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml

from common.machine.errors import UserError
from common.workbench import reproductions, results
from common.workbench.browser import Browser, find_chromium
from common.workbench.pages import HOSTILE, Page
from common.workbench.reproduction_pages import markdown, page
from common.workbench.reproductions import NEEDS_MORE, NOT_SHOWN, REPRODUCED, SMALL, VERDICTS, Claim, Deviation

TOP = Path(__file__).resolve().parents[2]
CLAIMS = """
paths: {mnist: a folder with MNIST}
claims:
  first: {claim: A made-up command., level: quick, command: python paper/first.py}
  made: {claim: A command after it., level: quick, command: "python paper/work.py\\npython paper/more.py", after: first}
  later: {claim: What has not run., level: gpu, command: "python paper/later.py {mnist} ${N:-3}"}
"""
MEASURED = {
    "first": {"values": {}, "as of": "2026-01-02", "machine": "2 cores", "seconds": 100},
    "made": {"values": {"error": "6.13", "size": 2.5, "rows": {"a-b": ["10", "1,011"], "c": ["20 ± 3"]}},
             "as of": "2026-01-03", "machine": "2 cores", "seconds": 200},
}
README = """# Paper

## Results

It takes
2.14 ± 0.09 dB, in [+1.9, +4.5]. Run `python work.py` as `python paper/work.py --long`, or `python paper/work.py`.
"""
GOOD = {"claim": "The error is small.", "published": "6.20 %", "verdict": REPRODUCED, "by": ["made"],
        "ours": "{made[error]} %",
        "deviation": {"ours": "{made[error]}", "published": "6.20", "unit": "%", "within": "2 %"}}


@pytest.fixture
def stated(tmp_path):
    """A repository with one paper, and what is known of its commands."""
    for folder in ("paper/tests", "results/reproductions"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "paper/README.md").write_text(README)
    (tmp_path / "paper/tests/test_it.py").touch()
    (tmp_path / "results/paper.yaml").write_text(CLAIMS)
    (tmp_path / "results/paper.json").write_text(json.dumps(MEASURED))
    return results.load(tmp_path / "results/paper.yaml", tmp_path / "results/paper.json", tmp_path / "paper/README.md")


@pytest.fixture
def load(stated, tmp_path):
    """A function from claims, and what they differ in from the good one, to papers."""
    def read(*claims):
        path = tmp_path / "results/reproductions/paper.yaml"
        paper = {"name": "Short, name", "title": "Long", "arxiv": "1905.1", "summary": "It is so."}
        path.write_text(yaml.safe_dump({"papers": [{**paper, "claims": list(claims)}]}))
        return reproductions.load(path, stated)
    return read


@pytest.fixture
def one(load):
    """A function from what a claim differs in from the good one to the claim, filled."""
    return lambda **changes: load({**GOOD, **changes})[0].claims[0]


@pytest.mark.parametrize("text, expected", [
    ("{made[error]} %, {made[size]:.2f}", "6.13 %, 2.50"), ("{made[error]:.1f}", "6.1"),
    ("{made[rows][a-b][1] - made[error]:.1f}", "1004.9"), ("{made[rows][a-b][0] / 4 + 1}", "3.5"),
    ("{100 * made[size] - 50:+.0f}", "+200"), ("{made[rows][c][0]:g} {made[rows][c][0]}", "20 20 ± 3"),
    ("{quoted[0]} {quoted[1]:g}", "2.14 ± 0.09 dB 1.9"),
])
def test_texts_are_filled_with_values_and_what_follows_from_them(one, text, expected):
    claim = one(ours=text, note=text, quoted=["2.14 ± 0.09 dB", "[+1.9, +4.5]"])
    assert claim.ours == claim.note == expected


@pytest.mark.parametrize("deviation, text", [
    ({"ours": "1.59", "published": "1.55", "unit": "MB"}, "+0.04 MB (+2.6 %)"),
    ({"ours": "185", "published": "192"}, "-7 (-3.6 %)"),
    ({"ours": "51.6", "published": "7.29", "unit": "%"}, "+44.31 points"),
    ({"ours": "1048.2", "published": "1048", "unit": "kB"}, "none"),
    ({"ours": "2.14 ± 0.09", "published": "2"}, "none"),
])
def test_deviations_have_the_decimals_of_what_is_published(deviation, text):
    assert Deviation(**deviation).text() == text


@pytest.mark.parametrize("changes", [
    {}, {"verdict": SMALL}, {"deviation": None, "holds": ["{made[error]} < 7", "{made[size]} > 2"]},
    {"verdict": NOT_SHOWN, "note": "Why.", "deviation": None, "holds": ["{made[error]} < 7", "{made[size]} > 3"]},
    {"verdict": NOT_SHOWN, "note": "Why.", "deviation": {"ours": "6.13", "published": "6.20", "within": "1 %"}},
    {"deviation": None, "tests": ["paper/tests/test_it.py"]},
    {"verdict": NEEDS_MORE, "note": "Why.", "ours": "", "deviation": None},
    {"by": [], "command": "python paper/work.py --long"}, {"by": [], "readme": "results"},
])
def test_verdicts_that_are_borne_out_pass(one, changes):
    assert one(**changes).verdict == changes.get("verdict", REPRODUCED)


@pytest.mark.parametrize("changes, words", [
    ({"deviation": {"ours": "{made[error]}", "published": "6.20", "within": "1 %"}}, "'reproduced', but not all is so"),
    ({"holds": ["{made[error]} > 7"]}, "'reproduced', but not all is so: 6.13 > 7"),
    ({"verdict": SMALL, "holds": ["{made[error]} < 6"]}, "'at small scale', but not all is so: 6.13 < 6"),
    ({"verdict": NOT_SHOWN, "note": "Why."}, "'not shown', but all that is to hold does"),
    ({"verdict": NOT_SHOWN, "holds": ["1 > 2"]}, "no note says why"),
    ({"verdict": NEEDS_MORE}, "no note says why"),
    ({"ours": ""}, "there is nothing of ours"),
    ({"deviation": None}, "nothing to hold"),
    ({"deviation": {"ours": "6", "published": "6", "unit": "%"}}, "nothing to hold"),
    ({"by": []}, "none of by, tests, command and readme"),
    ({"by": ["maid"]}, "no claim 'maid'"),
    ({"tests": ["paper/tests/test_that.py"]}, "there is no paper/tests/test_that.py"),
    ({"readme": "result"}, "no heading 'result' in paper/README.md"),
    ({"quoted": ["2.15 ± 0.09"]}, "'2.15 ± 0.09' does not stand in paper/README.md"),
    ({"command": "python paper/work.py --short"}, "does not stand in paper/README.md"),
    ({"holds": ["{made[error]} < much"]}, "much"), ({"holds": ["6 = 6"]}, "no comparison"),
    ({"ours": "{made[eror]}"}, "KeyError: 'eror'"), ({"ours": "{later[error]}"}, "KeyError: 'later'"),
    ({"verdict": "done"}, "done"), ({"verdikt": "done"}, "verdikt"),
    ({"deviation": {"ours": "6", "published": 6.2}}, "published"),
])
def test_what_is_wrong_names_file_paper_and_claim(load, changes, words):
    with pytest.raises(UserError, match=re.escape(words)) as caught:
        load(GOOD, {**GOOD, **changes})
    assert "paper.yaml, Short, name, claim 2: " in str(caught.value)


def test_commands_are_those_of_the_claims_with_those_before_them(load):
    (paper,) = load({**GOOD, "tests": ["paper/tests/test_it.py"], "command": "python paper/work.py --long"},
                    {**GOOD, "by": ["later"]})
    assert paper.commands(paper.claims[0]) == [
        "python paper/first.py", "python paper/work.py", "python paper/more.py", "python paper/work.py --long",
        "python -m pytest paper/tests/test_it.py"]
    assert paper.commands(paper.claims[1]) == ["python paper/later.py MNIST ${N:-3}"]
    assert "MNIST: a folder with MNIST." in markdown([paper])
    assert [paper.measured(claim) for claim in paper.claims] == ["2026-01-03, 2 cores, 5 minutes", ""]
    del paper.stated.measured["first"]["seconds"]
    assert paper.measured(paper.claims[0]) == "2026-01-03, 2 cores, stopped and resumed"


def test_both_pages_say_all_of_a_claim(load, tmp_path):
    texts = {"claim": "A | b.", "where": "table 7", "scale": "one image", "seeds": "3", "note": "See `plan.py`."}
    papers = load({**GOOD, **texts, "command": "python paper/work.py --long"})
    (tmp_path / "page.html").write_text(page(papers))
    shown = Page(tmp_path / "page.html")
    everything = " ".join(shown.texts.values()).replace("\N{NO-BREAK SPACE}", " ")
    for text in ("table 7", "one image", "3", "6.20 %", "6.13 %", "-0.07 points", "python paper/first.py", "--long",
                 "2026-01-03"):
        assert text in everything and text in markdown(papers)
    assert "| A \\| b. |" in markdown(papers) and "A | b." in everything and "plan.py" in shown.texts["code"]


def test_hostile_texts_stay_texts(load, tmp_path):
    papers = load({**GOOD, "claim": HOSTILE, "note": f"`{HOSTILE}`", "scale": HOSTILE})
    (tmp_path / "page.html").write_text(page(papers))
    (tmp_path / "paper/README.md").touch()
    shown = Page(tmp_path / "page.html")
    shown.assert_whole(num_scripts=1)
    assert "alert(1)" in shown.texts["b"] and "\u202e" not in shown.source


# This repository ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("tools_results_of_pages", TOP / "tools/results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def papers():
    found = []
    for path in sorted((TOP / "results").glob("*.yaml")):
        stated = results.load(path, path.with_suffix(".json"), TOP / path.stem / "README.md")
        found += reproductions.load(path.parent / "reproductions" / path.name, stated)
    return found


def test_the_pages_of_this_repository_are_what_its_data_give(tool):
    assert tool.main(["--check"]) == 0


def test_every_paper_has_claims_and_every_verdict_is_given(papers):
    readme = (TOP / "README.md").read_text(encoding="utf-8")
    assert {paper.arxiv for paper in papers} == set(re.findall(r"arxiv\.org/abs/([\d.]+)", readme))
    assert {claim.verdict for paper in papers for claim in paper.claims} == VERDICTS.keys()
    names = [(paper.name, claim.claim) for paper in papers for claim in paper.claims]
    assert len(set(names)) == len(names)


def test_claims_do_not_lean_on_their_neighbours(papers):
    """The page sorts and hides them."""
    texts = [text for paper in papers for claim in paper.claims for text in (claim.claim, claim.scale, claim.note)]
    assert not [text for text in texts if re.search(r"\b(above|below|[Tt]he same,)", text)]


def test_the_pages_of_this_repository_need_nothing_else():
    shown = Page(TOP / "reproduction.html")
    shown.assert_whole(num_scripts=1)
    text = (TOP / "REPRODUCTION.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\(#(.*?)\)", text)) <= reproductions.anchors(text)
    linked = re.findall(r"\]\((?!https://arxiv\.org/abs/)([^)#]+)", text)
    assert {*linked, *shown.addresses()} > {"reproduction.html", "x-umx/README.md"}
    assert all((TOP / path).is_file() for path in linked)


def test_an_outdated_page_is_told_and_made_again(stated, load, tool, tmp_path, monkeypatch, capsys):
    load(GOOD)
    monkeypatch.setattr(tool, "TOP", tmp_path)
    monkeypatch.setattr(tool, "FOLDER", tmp_path / "results")
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().out.count(" differs from the data") == 2
    assert tool.main(["--write"]) == 0 and tool.main(["--check"]) == 0
    (tmp_path / "REPRODUCTION.md").write_text((tmp_path / "REPRODUCTION.md").read_text().replace("6.13", "6.12"))
    assert tool.main(["--check"]) == 1
    assert capsys.readouterr().out.startswith("REPRODUCTION.md differs from the data")
    (tmp_path / "results/paper.json").write_text(json.dumps(MEASURED).replace("6.13", "7.5"))
    with pytest.raises(UserError, match="'reproduced', but not all is so"):
        tool.main(["--write"])


def test_a_command_of_a_readme_runs_in_its_folder(load):
    (paper,) = load({**GOOD, "command": "python work.py"}, {**GOOD, "command": "python paper/work.py"})
    assert [paper.commands(claim)[-1] for claim in paper.claims] == ["cd paper; python work.py", "python paper/work.py"]


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(papers, width, tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip("there is no Chromium")
    shown = "[...document.querySelectorAll('#claims tbody tr')].filter(row => !row.hidden).map(row => row.dataset.{})"
    with Browser(program, tmp_path) as browser:
        browser.open(TOP / "reproduction.html", width)
        assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
        everything = browser.evaluate(shown.format("paper"))
        assert len(everything) == sum(len(paper.claims) for paper in papers)
        browser.evaluate("document.querySelectorAll('button.verdict')[2].click()")
        assert set(browser.evaluate(shown.format("verdict"))) == {NOT_SHOWN}

        def choose(name, value):
            browser.evaluate(f"(chosen => {{ chosen.value = '{value}'; chosen.dispatchEvent(new Event('change')) }})"
                             f"(document.getElementById('{name}'))")

        choose("paper", "Mixed precision")
        assert set(browser.evaluate(shown.format("paper"))) == {"Mixed precision"}
        assert browser.evaluate("document.getElementById('count').textContent").split()[0] == str(
            len(browser.evaluate(shown.format("paper"))))
        browser.evaluate("document.querySelectorAll('button.verdict')[2].click()")
        choose("paper", "")
        choose("order", "verdict")
        ordered = [list(VERDICTS).index(verdict) for verdict in browser.evaluate(shown.format("verdict"))]
        assert ordered == sorted(ordered) and len(ordered) == len(everything)
        choose("order", "paper")
        assert browser.evaluate(shown.format("paper")) == everything
        assert not browser.errors


def test_a_claim_without_numbers_says_how_it_is_judged():
    common = {"claim": "c", "published": "p", "verdict": REPRODUCED}
    assert Claim(**common, holds=["1 < 2"]).judged == "holds"
    assert Claim(**common, holds=["1 < 2", "2 < 1"]).judged == "does not hold"
    assert Claim(**common, tests=["t"]).judged == "within the tests' tolerances"
