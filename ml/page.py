"""An evaluation as a page for people.

The page is one file that loads nothing: no script, no font, no picture from elsewhere. What is drawn is HTML
and SVG, and carries its numbers as text. A table that is wider than the window scrolls by itself; a label
that is too long is cut, and whole where the pointer rests.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["NUMBERS", "page"]

NUMBERS = "report.json"
"""What the file beside the page is called that has all of it as numbers."""

_MOST_CLASSES = 40
"""Of which the page draws rows and columns; the numbers have all."""

_MOST_NAMED = 10
"""Of the labels that the model does not know."""

_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
}


def page(title: str, document: dict[str, Any]) -> str:
    """The page, as HTML."""
    sections = [
        _headline(document),
        _section("Classes", _classes(document["classes"])),
        _section("Who is taken for whom", _confusion(document)),
        _section("Can its probabilities be believed?", _calibration(document["calibration"])),
        _section("What it looks at", _importance(document["importance"])),
        _section("Where this is from", _origin(document)),
    ]
    return _FRAME.format(title=_text(title), body="\n".join(filter(None, sections)))


def _text(value: object) -> str:
    """Safe in HTML: labels come from a file, and may hold anything."""
    text = str(value)
    return html.escape(text if text.isprintable() else ascii(text))


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _section(title: str, body: str) -> str:
    return f"<section><h2>{title}</h2>\n{body}\n</section>" if body else ""


def _label(label: object) -> str:
    return f'<code class="label" title="{_text(label)}">{_text(label)}</code>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "numbers") -> str:
    """Cells are HTML already; of the kind `numbers` all but the first are."""
    lines = [f'<div class="wide"><table class="{kind}">']
    if any(head):
        lines.append("<thead><tr>" + "".join(f"<th>{cell}</th>" for cell in head) + "</tr></thead>")
    lines += ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows]
    return "\n".join([*lines, "</table></div>"])


def _headline(document: dict[str, Any]) -> str:
    ends = document["intervals"] or {}
    cards = []
    for name, title in _TITLES.items():
        interval = f"{ends[name][0]:.3f} – {ends[name][1]:.3f}" if name in ends else "no interval"
        cards.append((title, _number(document["scores"][name]), interval))
    if document["majority"]:
        label = f"always answering {_label(document['majority']['label'])}"
        cards.append(("majority", _number(document["majority"]["accuracy"]), label))
    cards.append(("calibration error", _number(document["calibration"]["ece"]), "expected, 10 bins"))
    drawn = "".join(
        f'<div class="card"><p>{title}</p><strong>{value}</strong><p class="dim">{below}</p></div>'
        for title, value, below in cards
    )
    notes = [f"{document['rows']} rows of {document['captures']} captures."]
    if "split" in document:
        split = document["split"]
        notes.append(
            f"They were held out of training, by {split['by']}: {_text(split['meaning'])}. The model that is "
            f"judged here was fitted on the other {split['n_train']} rows; the one that was written, on all."
        )
    notes.append(
        "Intervals hold 95 % of a bootstrap over captures: connections of one capture are not independent."
        if ends
        else "There are no intervals: they are over captures, and the rows do not name two."
    )
    if document["unseen"]:
        named = list(document["unseen"].items())
        rows = sum(count for _, count in named)
        notes.append(
            f"<b>{rows} rows</b> have a label that the model does not know, and are scored as wrong: "
            + ", ".join(f"{_text(label)} ({count})" for label, count in named[:_MOST_NAMED])
            + (f", and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else "")
            + "."
        )
    return f'<div class="cards">{drawn}</div>\n' + "".join(f"<p>{note}</p>" for note in notes)


def _classes(classes: Sequence[dict[str, Any]]) -> str:
    most = max(max(one["rows"], one["trained"] or 0) for one in classes)
    rows = []
    for one in classes:
        bars = "".join(
            f'<span class="bar {kind}" style="width:{count / most * 100:.1f}%"></span>'
            for kind, count in (("trained", one["trained"] or 0), ("rows", one["rows"]))
        )
        rows.append(
            (
                _label(one["label"]),
                "–" if one["trained"] is None else str(one["trained"]),
                str(one["rows"]),
                f'<div class="bars">{bars}</div>',
                _number(one["precision"]),
                _number(one["recall"]),
                _shaded(one["f1"]),
            )
        )
    head = ("label", "rows trained on", "rows here", "", "precision", "recall", "F1")
    legend = (
        '<p class="dim"><span class="key trained"></span> rows trained on '
        '<span class="key rows"></span> rows here</p>'
    )
    return legend + _table(head, rows)


def _shaded(share: float | None) -> str:
    if share is None:
        return "–"
    return f'<span class="shade" style="--share:{share:.3f}">{share:.3f}</span>'


def _confusion(document: dict[str, Any]) -> str:
    """Rows are what it was, columns what was answered; shaded by the share of the row."""
    labels, matrix = document["labels"], document["confusion"]
    number = {label: i for i, label in enumerate(labels)}
    there = [number[one["label"]] for one in document["classes"]]
    drawn = there[:_MOST_CLASSES]
    head = "".join(f'<th class="up">{_label(labels[j])}</th>' for j in drawn)
    lines = [f'<div class="wide"><table class="matrix"><thead><tr><th></th>{head}</tr></thead><tbody>']
    for i in drawn:
        total = sum(matrix[i])
        cells = []
        for j in drawn:
            count = matrix[i][j]
            share = count / total if total else 0.0
            kind = "right" if i == j else "wrong"
            hint = _text(f"{labels[i]} answered with {labels[j]}: {count} of {total}")
            style = f'class="{kind}" style="--share:{share:.3f}"'
            cells.append(f'<td {style} title="{hint}">{count or ""}</td>')
        lines.append(f"<tr><th>{_label(labels[i])}</th>{''.join(cells)}</tr>")
    lines.append("</tbody></table></div>")
    note = "Each row is a label, each column what was answered; the deeper the colour, the more of the row."
    if len(there) > len(drawn):
        note += f" The {len(drawn)} commonest of {len(there)} labels; {NUMBERS} has all."
    return f'<p class="dim">{note}</p>\n' + "".join(lines)


def _calibration(calibration: dict[str, Any]) -> str:
    """Reliability: accuracy over probability, the area of a point as its rows."""
    side, edge = 300, 44
    most = max(one["rows"] for one in calibration["bins"])

    def x(share: float) -> float:
        return edge + share * side

    def y(share: float) -> float:
        return edge / 2 + (1 - share) * side

    marks = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        marks.append(f'<line class="grid" x1="{x(tick)}" y1="{y(0)}" x2="{x(tick)}" y2="{y(1)}"/>')
        marks.append(f'<line class="grid" x1="{x(0)}" y1="{y(tick)}" x2="{x(1)}" y2="{y(tick)}"/>')
        marks.append(f'<text x="{x(tick)}" y="{y(0) + 16}" text-anchor="middle">{tick:g}</text>')
        marks.append(f'<text x="{x(0) - 6}" y="{y(tick) + 4}" text-anchor="end">{tick:g}</text>')
    marks.append(f'<line class="ideal" x1="{x(0)}" y1="{y(0)}" x2="{x(1)}" y2="{y(1)}"/>')
    for one in calibration["bins"]:
        radius = 3 + 13 * (one["rows"] / most) ** 0.5
        hint = f"{one['rows']} rows, said {one['probability']:.3f}, right {one['accuracy']:.3f}"
        marks.append(
            f'<circle cx="{x(one["probability"]):.1f}" cy="{y(one["accuracy"]):.1f}" r="{radius:.1f}">'
            f"<title>{hint}</title></circle>"
        )
    marks.append(f'<text x="{x(0.5)}" y="{y(0) + 34}" text-anchor="middle">probability that was said</text>')
    marks.append(
        f'<text transform="translate(12 {y(0.5)}) rotate(-90)" text-anchor="middle">'
        "share that was right</text>"
    )
    wide, high = side + 2 * edge, side + 1.5 * edge
    size = f'width="{wide}" height="{high:g}" viewBox="0 0 {wide} {high:g}"'
    chart = f'<svg {size} role="img" aria-label="reliability diagram">{"".join(marks)}</svg>'
    rows = [
        (
            f"{one['from']:.1f} – {one['to']:.1f}",
            str(one["rows"]),
            _number(one["probability"]),
            _number(one["accuracy"]),
        )
        for one in calibration["bins"]
    ]
    table = _table(("probability", "rows", "mean", "right"), rows)
    return (
        '<p class="dim">On the line, what is said with 0.8 is right 8 times in 10; below it, too much is '
        f'promised.</p>\n<div class="beside">{chart}{table}</div>'
    )


def _importance(importance: Sequence[dict[str, Any]] | None) -> str:
    if not importance:
        return ""
    most = max(max(abs(one["mean"]) for one in importance), 1e-9)
    rows = [
        (
            f"<code>{one['feature']}</code>",
            f'<div class="bars"><span class="bar rows" style="width:{max(one["mean"], 0) / most * 100:.1f}%">'
            "</span></div>",
            f"{one['mean']:+.4f} ± {one['std']:.4f}",
        )
        for one in importance
    ]
    note = (
        '<p class="dim">Loss of accuracy when the column of a feature is shuffled, mean and standard '
        "deviation of 5 shufflings. Features that say the same stand in for each other, and lose less than "
        "they are worth.</p>"
    )
    return note + _table(("feature", "", "loss of accuracy"), rows)


def _origin(document: dict[str, Any]) -> str:
    contract = document["model"]["contract"] or {}
    facts = [
        ("model", document["model"]["name"]),
        *((name.replace("_", " "), value) for name, value in contract.items() if name != "parameters"),
        ("test data", ", ".join(document["data"]["files"])),
        ("its SHA-256", document["data"]["sha256"]),
        ("rows left out", document["data"]["left_out"]),
    ]
    rows = [(_text(name), f"<code>{_text(_plain(value))}</code>") for name, value in facts]
    return _table(("", ""), rows, "facts")


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(one)}" for name, one in value.items())
    return "unknown" if value is None else str(value)


_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --ink: #1c2126; --dim: #626b75; --page: #fff; --card: #f4f6f8;
  --line: #dde2e7; --right: 33 102 172; --wrong: 200 70 40; --trained: #b8c4cf; --rows: #2166ac; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #e4e8ec; --dim: #98a2ad; --page: #14181c;
  --card: #1e242a; --line: #323a42; --right: 90 160 230; --wrong: 230 110 80; --trained: #4b5763;
  --rows: #5aa0e6; }} }}
body {{ font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 1080px; margin: 2rem auto; padding: 0 1.2rem; }}
h1 {{ font-size: 1.5rem; overflow-wrap: anywhere; }} h2 {{ font-size: 1.15rem; margin: 2.4rem 0 .5rem; }}
p {{ margin: .4rem 0; overflow-wrap: anywhere; }} .dim {{ color: var(--dim); }}
code {{ font-size: .88em; overflow-wrap: anywhere; }}
.cards {{ display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }}
.card {{ background: var(--card); border-radius: 8px; padding: .7rem 1rem; flex: 1 1 9rem; min-width: 0; }}
.card p {{ margin: 0; font-size: .88rem; overflow-wrap: anywhere; }}
.card .label {{ max-width: 100%; }} .card strong {{ font-size: 1.7rem; font-weight: 600; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th {{ text-align: left; font-weight: 500; color: var(--dim); }}
th, td {{ padding: .2rem .9rem .2rem 0; border-bottom: 1px solid var(--line); vertical-align: middle; }}
.numbers :is(th, td):not(:first-child) {{ text-align: right; white-space: nowrap; }}
.facts td:first-child {{ white-space: nowrap; vertical-align: top; }}
.label {{ display: inline-block; max-width: min(18rem, 45vw); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; vertical-align: middle; }}
.bars {{ width: 15rem; max-width: 30vw; }}
.bar {{ display: block; height: 6px; min-width: 1px; margin: 1px 0; }}
.trained {{ background: var(--trained); }} .rows {{ background: var(--rows); }}
.key {{ display: inline-block; width: .8em; height: .8em; margin-left: .6em; }}
.key:first-child {{ margin-left: 0; }}
.shade {{ padding: .1rem .4rem; border-radius: 4px;
  background: rgb(var(--wrong) / calc((1 - var(--share)) * .45)); }}
.wide {{ overflow-x: auto; }} .matrix td {{ text-align: right; padding: .15rem .3rem; min-width: 1.6rem;
  border: 1px solid var(--line); font-size: .8rem; }}
.matrix th {{ border: 0; font-size: .9rem; background: var(--page); }}
.matrix th:first-child {{ position: sticky; left: 0; }} .matrix .label {{ max-width: min(18rem, 32vw); }}
.right {{ background: rgb(var(--right) / calc(var(--share) * .6)); }}
.wrong {{ background: rgb(var(--wrong) / calc(var(--share) * .9)); }}
.up {{ vertical-align: bottom; padding: 0 .2rem .3rem; }}
.matrix .up .label {{ writing-mode: vertical-rl; transform: rotate(180deg); max-width: none;
  max-height: 14rem; }}
.beside {{ display: flex; flex-wrap: wrap; gap: 2rem; align-items: flex-start; }}
svg {{ max-width: 100%; height: auto; }} svg text {{ fill: var(--dim); font-size: 12px; }}
.grid {{ stroke: var(--line); }} .ideal {{ stroke: var(--dim); stroke-dasharray: 4 4; }}
circle {{ fill: var(--rows); fill-opacity: .75; }}
</style></head>
<body><h1>{title}</h1>
{body}
</body></html>
"""
