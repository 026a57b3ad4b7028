"""One page with every recorded figure as a plot, how each benchmark ended, on which machine and when."""

import math
from collections.abc import Iterable
from html import escape
from pathlib import Path

from benchmarks.bench.catalogue import title
from benchmarks.bench.running import Done
from benchmarks.record import FOLDER, Figure
from tasks.common.files import atomic_path, read_json

WIDTH, MIDDLE = 240, 120  # pixels of a plot; the goal is in its middle
DECADES = 1.5  # shown to each side of the goal
STYLE = """
:root { color-scheme: light dark; --good: #2a7d46; --bad: #b3442c; --line: #8884; }
@media (prefers-color-scheme: dark) { :root { --good: #6fcf8f; --bad: #ff9a80; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 1.5rem auto; max-width: 72rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-top: 1px solid var(--line); padding: .3rem .6rem .3rem 0; text-align: left; vertical-align: top; }
section { overflow-x: auto; }
.good { color: var(--good); } .bad { color: var(--bad); }
svg { display: block; } svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
small, .by { opacity: .75; } pre { overflow-x: auto; } code { overflow-wrap: anywhere; }
"""


def plot(figure: Figure) -> str:
    """The figure beside its goal as SVG, on a logarithmic scale; "" where it has no goal or no positive values."""
    if figure.goal is None or figure.goal <= 0 or figure.value <= 0:
        return ""
    shift = math.log10(figure.value / figure.goal) / DECADES
    end = MIDDLE + MIDDLE * max(-1.0, min(1.0, shift))
    x, width = min(MIDDLE, end), max(2.0, abs(end - MIDDLE))
    word, colour = ("met", "--good") if figure.met else ("missed", "--bad")
    said = escape(f"{figure.name}: {figure.value:.4g} {figure.unit}, goal {figure.goal:g}, {word}")
    better = "left" if figure.better == "lower" else "right"
    return (
        f'<svg width="{WIDTH}" height="22" role="img" aria-label="{said}">'
        f'<rect x="{x:.1f}" y="5" width="{width:.1f}" height="10" fill="var({colour})"/>'
        f'<line x1="{MIDDLE}" x2="{MIDDLE}" y1="0" y2="20" stroke="currentColor"/>'
        f"<title>{said}; better is to the {better}</title></svg>"
    )


def bars(figures: list[Figure]) -> str:
    """Figures without a goal that have one unit, as bars from zero; "" for fewer than two or mixed signs."""
    values = [figure.value for figure in figures]
    if len(values) < 2 or min(values) < 0 or max(values) <= 0:
        return ""
    rows, scale = [], 300 / max(values)
    for number, figure in enumerate(figures):
        y = 20 * number
        rows.append(f'<rect x="330" y="{y + 4}" width="{max(1, scale * figure.value):.1f}" height="11" fill="#69c"/>')
        rows.append(f'<text x="324" y="{y + 14}" text-anchor="end">{escape(figure.name[:52])}</text>')
        value = f"{figure.value:.4g} {figure.unit}"
        rows.append(f'<text x="{336 + scale * figure.value:.1f}" y="{y + 14}">{escape(value)}</text>')
    label = escape(f"bars of {', '.join(figure.name for figure in figures)}")
    return f'<svg width="740" height="{20 * len(figures) + 4}" role="img" aria-label="{label}">{"".join(rows)}</svg>'


def section(name: str, entries: list[dict], done: Done | None) -> str:
    """The part of one benchmark: its question, command, machine and date, figures and their plots."""
    parts = [f'<section id="{escape(name)}"><h2>{escape(name)}</h2>', f"<p>{escape(title(name))}</p>"]
    if done and done.outcome != "measured":
        parts.append(f'<p class="bad">{escape(done.outcome)}, {escape(done.began)}</p><pre>{escape(done.said)}</pre>')
    if entries:
        about = entries[0]
        by = f"{about['date']}, {about['machine']}"
        parts.append(f'<p class="by"><code>{escape(about["command"])}</code><br>{escape(by)}</p>')
        figures = [Figure(**{key: entry[key] for key in Figure.model_fields}) for entry in entries]
        parts.append("<table>" + "".join(map(_row, figures)) + "</table>")
        for unit in dict.fromkeys(figure.unit for figure in figures):
            parts.append(bars([one for one in figures if one.goal is None and one.unit == unit][:24]))
    return "\n".join(filter(None, parts)) + "</section>"


def _row(figure: Figure) -> str:
    sign = "≥" if figure.better == "higher" else "≤"
    goal = "" if figure.goal is None else f"goal {sign} {figure.goal:g}"
    verdict = {None: "", True: '<span class="good">met</span>', False: '<span class="bad">missed</span>'}[figure.met]
    peer = f"<small>{escape(figure.peer)}</small>" if figure.peer else ""
    spread = f"<br><small>{escape(figure.spread)}</small>" if figure.spread else ""
    value = escape(f"{figure.value:.4g} {figure.unit}")
    return (
        f"<tr><td><code>{escape(figure.name)}</code><br>{peer}{spread}</td><td>{value}</td>"
        f"<td>{goal} {verdict}</td><td>{plot(figure)}</td></tr>"
    )


def page(names: Iterable[str], done: dict[str, Done], now: str, machine: str) -> str:
    """The page of the benchmarks `names`, in their order. `done`: how those ended that `make bench` ran."""
    parts, rows, met, goals = [], [], 0, 0
    for name in names:
        file = FOLDER / f"{name}.json"
        entries = read_json(file) if file.is_file() else []
        figures = [Figure(**{key: entry[key] for key in Figure.model_fields}) for entry in entries]
        wanted = [figure for figure in figures if figure.goal is not None]
        reached = sum(bool(figure.met) for figure in wanted)
        met, goals = met + reached, goals + len(wanted)
        ran = done.get(name)
        state = f"{ran.outcome}, {ran.seconds / 60:.1f} min" if ran else "not run here"
        recorded = entries[0]["date"] if entries else ""
        cells = (
            f'<a href="#{escape(name)}">{escape(name)}</a>',
            escape(state),
            recorded,
            f"{reached} of {len(wanted)}",
        )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
        parts.append(section(name, entries, ran))
    head = "<tr><th>benchmark</th><th>this machine</th><th>figures of</th><th>goals met</th></tr>"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Benchmarks</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>Benchmarks</h1>'
        f"<p>{escape(now)}, {escape(machine)}. {met} of {goals} goals are met. Plots: the goal is the line in the "
        "middle, one decade is two thirds of the way to the edge.</p>"
        f"<section><table>{head}{''.join(rows)}</table></section>{''.join(parts)}</body></html>\n"
    )


def write_page(file: Path, names: Iterable[str], done: dict[str, Done], now: str, machine: str) -> None:
    with atomic_path(file) as temporary:
        temporary.write_text(page(names, done, now, machine), encoding="utf-8")
