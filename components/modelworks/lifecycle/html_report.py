"""Reports a person can read: one HTML file each, with nothing to fetch, and pictures drawn as SVG."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelworks.lifecycle.checks import CheckReport, DataFinding
    from modelworks.lifecycle.gates import GateReport
    from modelworks.lifecycle.metrics import Outcome
    from modelworks.lifecycle.spec import ModelSpec

# ruff: noqa: E501 - a style sheet and markup, a rule a line
STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#667085;--line:#e4e7ec;--paper:#fff;--ground:#f6f7f9;--good:#067647;
--bad:#b42318;--warn:#b54708;--accent:#3538cd}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#98a2b3;--line:#2a3140;--paper:#161b25;--ground:#0e121a;
--good:#47cd89;--bad:#f97066;--warn:#fdb022;--accent:#8098f9}}
*{box-sizing:border-box}body{margin:0;background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1040px;margin:0 auto;padding:32px 20px 64px}h1{font-size:24px;margin:0 0 4px}h2{font-size:17px;margin:32px 0 12px}
.sub{color:var(--soft);overflow-wrap:anywhere}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));
gap:12px;margin-top:20px}.card{background:var(--paper);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.card b{display:block;font-size:22px}.card span{color:var(--soft);font-size:13px}
.table{background:var(--paper);border:1px solid var(--line);border-radius:10px;overflow-x:auto}
table{border-collapse:collapse;width:100%}th,td{padding:9px 14px;text-align:left;vertical-align:top;border-top:1px solid var(--line)}
tr:first-child th{border-top:0;color:var(--soft);font-weight:500;font-size:13px}.n{text-align:right;font-variant-numeric:tabular-nums}
small{display:block;color:var(--soft);font-size:13px}.whole{white-space:nowrap}
.tag{display:inline-block;padding:1px 9px;border-radius:99px;font-size:12.5px;font-weight:600;border:1px solid currentColor}
.error,.fail{color:var(--bad)}.warning,.inconclusive{color:var(--warn)}.note{color:var(--soft)}.pass{color:var(--good)}
code{font:13px ui-monospace,monospace;color:var(--soft);display:block;overflow-wrap:anywhere}
.bars{display:inline-flex;align-items:flex-end;height:26px;gap:1px}.bars i{width:7px;background:var(--accent);border-radius:1px}
@media(max-width:640px){tr,td{display:block;text-align:left!important}th{display:none}td{border:0;padding:3px 14px}td:empty{display:none}
tr{border-top:1px solid var(--line);padding:8px 0}tr:first-child{border:0;padding:0}.whole{white-space:normal}}
""".strip()


class Html(str):
    """Markup that this module wrote: every other text is escaped, whatever it begins with."""

    __slots__ = ()


def page(title: str, subtitle: str, cards: Sequence[tuple[str, str, str]], body: str) -> str:
    """An HTML page: a head, some big numbers (`value`, `label`, CSS class), and the rest."""
    numbers = "".join(
        f'<div class="card"><b class="{kind}">{escape(value)}</b><span>{escape(label)}</span></div>'
        for value, label, kind in cards
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{STYLE}</style><main><h1>{escape(title)}</h1>"
        f'<div class="sub">{escape(subtitle)}</div><div class="cards">{numbers}</div>{body}</main></html>\n'
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells of digits are set to the right."""
    numbers = [any(_is_number(row[at]) for row in rows) for at in range(len(head))]
    lines = ["".join(f"<th{' class=n' * n}>{escape(each)}</th>" for each, n in zip(head, numbers, strict=True))]
    lines += ["".join(map(_cell, row)) for row in rows]
    return '<div class="table"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"


def tag(word: str) -> Html:
    """A severity or verdict as a coloured word."""
    return Html(f'<span class="tag {escape(word)}">{escape(word)}</span>')


def checks_page(report: CheckReport) -> str:
    """The report of data checks."""
    counts = {name: sum(each.severity == name for each in report.findings) for name in ("error", "warning", "note")}
    cards = [
        ("passed", "training may go on", "pass") if report.passed else ("stopped", "training must not go on", "fail"),
        (f"{report.rows:,}", "rows", ""),
        (str(counts["error"]), "errors", "error" if counts["error"] else ""),
        (str(counts["warning"]), "warnings", "warning" if counts["warning"] else ""),
        (str(len(report.checks)), "checks: " + ", ".join(report.checks), ""),
    ]
    order = {"error": 0, "warning": 1, "note": 2}
    findings = [_finding_row(each) for each in sorted(report.findings, key=lambda each: order[each.severity])]
    columns = [
        [
            each["name"], each["type"] + (f", {each['unit']}" if each["unit"] else ""), f"{each['missing']:.1%}",
            each["range"], "-" if each["shift"] is None else f"{each['shift']:.3f}", _bars(each["shares"]),
        ]
        for each in report.columns
    ]  # fmt: skip
    body = "<h2>Findings</h2>" + (
        table(["", "check", "column", "what", "rows"], findings) if findings else "<p>None.</p>"
    )
    body += "<h2>Features</h2>" + table(["feature", "type", "missing", "values", "shift", "distribution"], columns)
    return page(f"Data of {report.model}", f"{report.data} · checked {_when(report.at)}", cards, body)


def gates_page(report: GateReport) -> str:
    """The report of gates."""
    counts = {name: sum(each.verdict == name for each in report.results) for name in ("pass", "inconclusive", "fail")}
    decided = ("allowed", f"for {report.target}", "pass")
    if report.override:
        decided = ("overridden", f"refused by {report.target}, and allowed all the same", "warning")
    elif not report.allowed:
        decided = ("refused", f"by {report.target}", "fail")
    cards = [
        decided,
        *((str(number), name, name if number else "") for name, number in counts.items()),
    ]
    body = ""
    if report.override:
        by = f"{report.override.by}, {_when(report.override.at)}"
        body += f"<h2>Overridden</h2><p><b>{escape(report.override.reason)}</b><br>{escape(by)}</p>"
    rows = [
        [
            Html(tag(each.verdict) + _action(each.action)), each.subject, "" if each.number is None else f"{each.number:.4g}",
            "" if each.interval is None else _interval(*each.interval),
            Html(f"<div>{escape(each.message)}<small>{escape(each.because)}</small>{_assumes(each.assumes)}</div>"), each.source.rpartition("/")[2],
        ]
        for each in sorted(report.results, key=lambda each: ("fail", "inconclusive", "pass").index(each.verdict))
    ]  # fmt: skip
    body += "<h2>Gates</h2>" + table(["", "what", "number", "95 % interval", "rule", "stated in"], rows)
    subtitle = f"{report.digest} · run {report.run} · {_when(report.at)}"
    return page(f"Gates of {report.model} for {report.target}", subtitle, cards, body)


def _action(action: str) -> str:
    """The action of the target on a verdict."""
    done = {"warn": "warned of", "refuse": "refused"}
    return f"<small>{done[action]}</small>" if action else ""


def _assumes(what: str) -> str:
    """The assumption of an interval."""
    return f"<small>interval over {escape(what)}</small>" if what else ""


def _interval(*ends: float | None) -> Html:
    low, high = ("-" if each is None else f"{each:.4g}" for each in ends)
    return Html(f'<span class="whole">{low} to {high}</span>')


def _finding_row(finding: DataFinding) -> list[str]:
    examples = "".join(f"<code>{escape(each)}</code>" for each in finding.examples)
    what = Html(f"<div>{escape(finding.message)}{examples}</div>")
    return [tag(finding.severity), finding.check, finding.subject, what, f"{finding.count:,}" if finding.count else ""]


def _cell(text: str) -> str:
    if isinstance(text, Html):
        return f"<td>{text}</td>"
    return f'<td class="n">{escape(text)}</td>' if _is_number(text) else f"<td>{escape(text)}</td>"


def _is_number(text: str) -> bool:
    return text.replace(",", "").replace(".", "").replace("%", "").replace("-", "").isdigit()


def _when(moment: str) -> str:
    """A moment as people write it."""
    return f"{moment[:16].replace('T', ' ')} UTC"


def _bars(shares: Sequence[float]) -> Html:
    top = max(shares, default=0) or 1
    bars = "".join(f'<i style="height:{max(1, round(26 * share / top))}px"></i>' for share in shares[:24])
    return Html(f'<span class="bars">{bars}</span>')


# -- Pictures --------------------------------------------------------------------------------------------------------
def plots(spec: ModelSpec, outcome: Outcome) -> dict[str, str]:
    """Pictures of how the model did on some rows, as SVG by name."""
    if outcome.kind == "binary":
        return {"roc": _roc(outcome), "calibration": _calibration(outcome)}
    if outcome.kind == "multiclass":
        return {"confusion": _confusion(outcome, [str(each) for each in spec.classes])}
    index = np.linspace(0, len(outcome.truth) - 1, min(500, len(outcome.truth))).astype(int)
    points = np.column_stack([outcome.truth[index], outcome.scores[index]])
    low, high = float(points.min()), float(points.max())
    return {"predicted": chart("Predicted against true", "true", "predicted", points, [(low, low), (high, high)])}


def _roc(outcome: Outcome) -> str:
    order = np.argsort(-outcome.positive, kind="stable")
    hits = np.cumsum(outcome.truth[order] == 1)
    misses = np.cumsum(outcome.truth[order] != 1)
    pick = np.unique(np.linspace(0, len(order) - 1, 200).astype(int))
    line = np.column_stack([misses[pick] / max(1, misses[-1]), hits[pick] / max(1, hits[-1])])
    return chart(
        "ROC on the hold-out", "false positive rate", "true positive rate", line, [(0, 0), (1, 1)], joined=True
    )


def _calibration(outcome: Outcome) -> str:
    order = np.array_split(np.argsort(outcome.positive, kind="stable"), 15)
    points = [(outcome.positive[each].mean(), (outcome.truth[each] == 1).mean()) for each in order if len(each)]
    return chart("Calibration", "predicted", "came true", np.array(points), [(0, 0), (1, 1)], joined=True)


def _confusion(outcome: Outcome, names: list[str]) -> str:
    size, side = len(names), 64
    cells = []
    for row in range(size):
        of_row = outcome.truth == row
        for column in range(size):
            count = int((of_row & (outcome.labels == column)).sum())
            share = count / max(1, int(of_row.sum()))
            left, top = 90 + column * side, 60 + row * side
            cells.append(
                f'<rect x="{left}" y="{top}" width="{side - 2}" height="{side - 2}" fill="#3538cd" opacity="{share:.3f}"/>'
                f'<text x="{left + side / 2:g}" y="{top + side / 2:g}" text-anchor="middle">{count}</text>'
            )
        cells.append(f'<text x="84" y="{60 + row * side + side / 2:g}" text-anchor="end">{escape(names[row])}</text>')
        cells.append(
            f'<text x="{90 + row * side + side / 2:g}" y="52" text-anchor="middle">{escape(names[row])}</text>'
        )
    return _svg("Confusion: rows true, columns predicted", 110 + size * side, 80 + size * side, "".join(cells))


def chart(
    title: str, x: str, y: str, points: np.ndarray, guide: Sequence[tuple[float, float]] = (), *, joined: bool = False
) -> str:
    """Points, or a line through them, with a dashed guide, in a square of 360 pixels."""
    everything = np.vstack([points, np.array(guide)]) if guide else points
    low, high = everything.min(axis=0), everything.max(axis=0)
    span = np.where(high > low, high - low, 1)

    def place(pair: np.ndarray | tuple[float, float]) -> str:
        across, up = (np.asarray(pair) - low) / span
        return f"{60 + across * 360:.1f},{40 + (1 - up) * 360:.1f}"

    marks = (
        f'<polyline fill="none" stroke="#3538cd" stroke-width="2" points="{" ".join(map(place, points))}"/>'
        if joined
        else "".join(
            '<circle r="2" fill="#3538cd" opacity=".5" cx="{}" cy="{}"/>'.format(*place(each).split(","))
            for each in points
        )
    )
    dashes = " ".join(place(each) for each in guide)
    return _svg(
        title, 440, 450,
        '<rect x="60" y="40" width="360" height="360" fill="none" stroke="#98a2b3"/>'
        f'<polyline fill="none" stroke="#98a2b3" stroke-dasharray="4" points="{dashes}"/>{marks}'
        f'<text x="240" y="438" text-anchor="middle">{escape(x)} ({low[0]:.3g} to {high[0]:.3g})</text>'
        f'<text x="-220" y="40" text-anchor="middle" transform="rotate(-90)">{escape(y)} ({low[1]:.3g} to {high[1]:.3g})</text>',
    )  # fmt: skip


def _svg(title: str, width: int, height: int, inside: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui,sans-serif" '
        f'font-size="13"><rect width="100%" height="100%" fill="#fff"/><text x="14" y="24" font-weight="600">'
        f"{escape(title)}</text>{inside}</svg>\n"
    )
