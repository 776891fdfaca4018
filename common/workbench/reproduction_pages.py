"""The claims of all papers beside ours as Markdown, and as a page of HTML to filter and sort."""
import re
from collections import Counter
from collections.abc import Sequence

from common.pages.document import document, escape
from common.workbench.reproductions import VERDICTS, Claim, Paper, anchor

TITLE = "What is reproduced"
SYMBOLS = dict(zip(VERDICTS, "●◐○…", strict=True))    # shapes, for those who see no colours
_COLUMNS = "claim", "published", "ours", "deviation, or whether it holds", "verdict"


def introduction(papers: Sequence[Paper]) -> list[str]:
    """Say what the claims are, in paragraphs."""
    count = sum(len(paper.claims) for paper in papers)
    return [f"Each claim of the papers beside what this repository shows: {count} claims of {len(papers)} papers. No "
            "network was trained here for as long as in the papers. So most published numbers still wait for somebody "
            "with the data and the GPUs. Their commands are here.",
            "Our numbers come from the commands beside them; the files in results/ keep them. A test fails where a "
            "number differs from these files, or where a verdict is not what the numbers say."]


def markdown(papers: Sequence[Paper]) -> str:
    """Return the text of REPRODUCTION.md."""
    header = ["| paper | " + " | ".join(VERDICTS) + " |", "|---" * (len(VERDICTS) + 1) + "|"]
    rows = [f"| [{paper.name}](#{anchor(paper.name)}) | {' | '.join(map(str, _counts(paper)))} |" for paper in papers]
    meanings = [f"- {SYMBOLS[verdict]} **{verdict}**: {meaning}" for verdict, meaning in VERDICTS.items()]
    parts = [f"# {TITLE}", "<!-- Made by `python tools/results.py --write` from results/reproductions/. -->",
             *introduction(papers), "[reproduction.html](reproduction.html) is the same as a page to filter and sort; "
             "[CONTRIBUTING.md](CONTRIBUTING.md) says how a verdict is changed.",
             "\n".join(header + rows), "\n".join(meanings)]
    return "\n\n".join(parts + [part for paper in papers for part in _section(paper)]) + "\n"


def _section(paper: Paper) -> list[str]:
    table = ["| | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for number, claim in enumerate(paper.claims, 1):
        cells = claim.claim, _published(claim), claim.ours or "not run", claim.judged, _verdict(claim)
        table.append(f"| {number} | {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    readme = f"{paper.folder}/README.md"
    return [f"## {paper.name}", f"*{paper.title}*, [arXiv {paper.arxiv}](https://arxiv.org/abs/{paper.arxiv}). "
            f"{paper.summary} [{readme}]({readme})", "\n".join(table), "Where the numbers come from:",
            *(_details(number, paper, claim) for number, claim in enumerate(paper.claims, 1))]


def _details(number: int, paper: Paper, claim: Claim) -> str:
    sentences = [f"{label}: {text}." if label else text for label, text in _facts(paper, claim)]
    if claim.readme:
        sentences.append(f"[README]({paper.folder}/README.md#{claim.readme})")
    if commands := paper.commands(claim):
        sentences.append("\n".join(["Command:", "    ```sh", *(f"    {command}" for command in commands), "    ```"]))
    return f"{number}. {' '.join(sentences)}"


def _facts(paper: Paper, claim: Claim) -> list[tuple[str, str]]:
    """What there is to say about a claim beside its numbers, with labels."""
    facts = [("Scale", claim.scale), ("Seeds", claim.seeds), ("Run", paper.measured(claim)), ("", claim.note),
             *((path.upper(), meaning) for path, meaning in paper.paths(claim).items() if path.upper() != meaning)]
    return [(label, text) for label, text in facts if text]


def _published(claim: Claim) -> str:
    return f"{claim.published} ({claim.where})" if claim.where else claim.published


def _verdict(claim: Claim) -> str:
    return f"{SYMBOLS[claim.verdict]} {claim.verdict}"


def _counts(paper: Paper) -> list[int]:
    counts = Counter(claim.verdict for claim in paper.claims)
    return [counts[verdict] for verdict in VERDICTS]


def page(papers: Sequence[Paper]) -> str:
    """Return reproduction.html."""
    totals = [sum(column) for column in zip(*map(_counts, papers), strict=True)]
    legend = "".join(map(_button, VERDICTS, totals))
    choices = "".join(f"<option>{escape(paper.name)}</option>" for paper in papers)
    rows = "".join(_row(paper, claim) for paper in papers for claim in paper.claims)
    head = "".join(f"<th scope='col'>{name}</th>" for name in ("verdict", *_COLUMNS[:-1], "where it comes from"))
    body = (f"<h1>{TITLE}</h1>{''.join(f'<p>{escape(text)}</p>' for text in introduction(papers))}"
            f"<ul id='legend'>{legend}</ul>"
            f"<div id='tools'><label>Paper <select id='paper'><option value=''>all</option>{choices}</select></label>"
            "<label>Order <select id='order'><option value='paper'>as in the papers</option>"
            "<option value='verdict'>by verdict</option></select></label><span id='count' role='status'></span></div>"
            f"<table id='claims'><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
            f"<h2>The papers</h2><ul>{''.join(map(_about, papers))}</ul>")
    return document(TITLE, body, __file__)


def _button(verdict: str, total: int) -> str:
    return (f"<li><button type='button' class='verdict {_kind(verdict)}' data-verdict='{verdict}' aria-pressed='false'>"
            f"{_mark(verdict)}&nbsp;{verdict} <b>{total}</b></button> "
            f"<span class='faint'>{VERDICTS[verdict]}</span></li>")


def _row(paper: Paper, claim: Claim) -> str:
    where = f"<div class='faint'>{escape(claim.where)}</div>" if claim.where else ""
    cells = [f"<span class='chip {_kind(claim.verdict)}'>{_mark(claim.verdict)}&nbsp;{escape(claim.verdict)}</span>",
             f"<div class='faint'>{escape(paper.name)}</div><b>{_html(claim.claim)}</b>",
             _html(claim.published) + where, _html(claim.ours or "not run"), escape(claim.judged or "–"),
             _source(paper, claim)]
    labels = "", "", "published", "ours", "deviation", ""
    filled = "".join(f"<td data-label='{label}'><div>{cell}</div></td>"
                     for label, cell in zip(labels, cells, strict=True))
    return f"<tr data-paper='{escape(paper.name)}' data-verdict='{escape(claim.verdict)}'>{filled}</tr>\n"


def _source(paper: Paper, claim: Claim) -> str:
    facts = "".join(f"<div><span class='faint'>{label}</span> {_html(text)}</div>"
                    for label, text in _facts(paper, claim))
    if claim.readme:
        facts += f"<div><a href='{paper.folder}/README.md'>{paper.folder}/README.md</a>, {escape(claim.readme)}</div>"
    commands = "<br>".join(map(escape, paper.commands(claim)))
    return facts + (f"<details><summary>command</summary><code>{commands}</code></details>" if commands else "")


def _about(paper: Paper) -> str:
    return (f"<li><b>{escape(paper.name)}</b>: {escape(paper.title)}, arXiv {paper.arxiv}. {_html(paper.summary)} "
            f"<a href='{paper.folder}/README.md'>{paper.folder}/README.md</a></li>")


def _kind(verdict: str) -> str:
    """The class of a verdict in the style."""
    return verdict.replace(" ", "-")


def _html(text: str) -> str:
    """Text for the page, with what stands between backticks as code, and numbers on the lines of their per cent."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)).replace(" %", "&nbsp;%")


def _mark(verdict: str) -> str:
    return f"<span class='mark' aria-hidden='true'>{SYMBOLS[verdict]}</span>"
