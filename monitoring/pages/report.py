"""The report of one window, for someone who has just been alarmed: what was decided, why, and which images did it.

Each page is one file, styled, without scripts, with nothing loaded from elsewhere; it opens from disk as it does from
the server (monitoring.pages.site). Names come from outside: all are escaped (Jinja's autoescape), stripped of control
and direction characters, and a content security policy forbids scripts altogether.

    <folder>/<window id>.html    the pages; index.json: one small entry for each; index.html: all of them, newest first

N rows, K classes.
"""

import base64
import functools
import hashlib
import io
import re
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monitoring.contracts import DriftDecision, Finding, Measures
from monitoring.pages import plots
from monitoring.pages.columns import confidence, directions, lists, numbers
from tasks.common.files import atomic_path, read_json, wait_for_lock, write_json

WINDOW_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9]{8}T[0-9]{6}Z")
LOCK_SECONDS = 600.0  # an entry is written in milliseconds, on a busy disk in seconds
TREND = 60  # windows shown
PLOTS = 8  # distributions shown, those that moved most
MIX = 12  # classes shown, those whose share moved most
CELLS = 400  # of the index page's strip
LETTERS = 80  # of a name
DETAIL = 300  # of a sentence about one measure
ACCURACIES = {  # finding -> what its tile says
    "accuracy.estimated": "accuracy, estimated without labels",
    "accuracy.reference": "accuracy on the reference",
    "accuracy.true": "accuracy by true labels",
}
HIDDEN_ACTIONS = "<!-- actions -->"  # where the server puts its buttons
OUTCOMES = {
    "none": ("All quiet", "Nothing to do. The next window is measured as scheduled."),
    "watch": ("Watch", "Nothing is started yet. Should the next windows show it too, labels or a retrain follow."),
    "label": ("Labels needed", "The most informative images wait in the review queue; a retrain starts once enough "
              "of them are labelled."),
    "retrain": ("Retrain", "A retrain is requested. Its model goes live only if the gate finds it better."),
}  # fmt: skip


def write(
    folder: Path,
    *,
    window_table: pa.Table,
    reference_table: pa.Table,
    measures: Measures,
    decision: DriftDecision,
    history: Sequence[tuple[Measures, DriftDecision]],
    classes: Sequence[str],
    done: Sequence[str] = (),
    images: int = 12,
    keep: int = 5_000,
) -> Path:
    """Write the window's page and the index, drop pages beyond the newest `keep`; the page's path.

    window_table: of schema.log_schema; reference_table: of reference.schema; history: earlier windows, any order;
    classes: names in the model's order; done: sentences of what was started because of this window.
    """
    trend = _trend(measures, decision, history)
    page = render(
        "window.html",
        window=measures.window, measures=measures, decision=decision, outcomes=OUTCOMES, done=done,
        moved=_moved(window_table, measures.moved[:images]),
        typical=_typical(reference_table, measures.typical[:images], classes),
        distributions=_distributions(window_table, reference_table, measures.findings, classes),
        mix=_mix(measures), groups=_groups(measures, trend), accuracy=_named(measures.findings, "accuracy"),
        timeline=plots.timeline(_points(measures.window.id, trend)), windows=len(trend), actions=HIDDEN_ACTIONS,
    )  # fmt: skip
    path = folder / f"{checked(measures.window.id)}.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    with _locked(folder):
        entries = {entry["id"]: entry for entry in read_index(folder)}
        entries[measures.window.id] = _entry(measures, decision)
        kept = [entries[name] for name in sorted(entries)][-keep:]
        write_json(folder / "index.json", kept)
    for old in set(entries) - {entry["id"] for entry in kept}:
        (folder / f"{checked(old)}.html").unlink(missing_ok=True)
    index(folder)
    return path


def index(folder: Path) -> Path:
    """Write index.html from index.json."""
    with atomic_path(folder / "index.html") as temporary:
        temporary.write_text(index_page(read_index(folder)), encoding="utf-8")
    return folder / "index.html"


def index_page(entries: Sequence[dict], base: str = "", links: Sequence[tuple[str, str]] = (), forms: str = "") -> str:
    """The page of all reports. entries: of index.json; base: what precedes a page's file name; links (text, address)
    and forms (trusted HTML): what only a running server can offer (monitoring.pages.site)."""
    newest = sorted(entries, key=lambda entry: entry["id"], reverse=True)
    counts = {outcome: sum(entry["outcome"] == outcome for entry in newest) for outcome in OUTCOMES}
    return render(
        "index.html", entries=newest, counts=counts, outcomes=OUTCOMES, base=base, links=links, forms=forms,
        blocks=[newest[start : start + 100] for start in range(0, len(newest), 100)],
        strip=plots.strip(_cells(newest[::-1])),
    )  # fmt: skip


def read_index(folder: Path) -> list[dict]:
    """The entries of all reports, oldest first."""
    path = folder / "index.json"
    return read_json(path) if path.is_file() else []


def checked(window_id: str) -> str:
    """`window_id`, which names files and addresses. Raises ValueError where it is none."""
    if not WINDOW_ID.fullmatch(window_id):
        raise ValueError(f"a window's id looks like 20261121T120000Z-20261121T121500Z, found {window_id[:80]!r}")
    return window_id


def render(template: str, **values: Any) -> str:
    """One of our pages, with its style and the policy that allows this style and nothing else."""
    return _environment().get_template(template).render(values, style=_style(), policy=policy())


@functools.cache
def policy() -> str:
    """Content security policy of our pages: this one style, inline images, forms and links to where they came from."""
    digest = base64.b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; form-action 'self'; frame-src 'self'; "
        "base-uri 'none'"
    )


def name(text: object, letters: int = LETTERS) -> str:
    """Text from outside, on one line and short; letters that hide or turn text go."""
    kept = "".join(letter if letter.isprintable() else " " for letter in str(text))
    return kept if len(kept) <= letters else kept[: letters - 1] + "…"


@functools.cache
def _style() -> str:
    return (Path(__file__).parent / "templates/style.css").read_text(encoding="utf-8")


@functools.cache
def _environment():
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"DETAIL": DETAIL, "accuracies": ACCURACIES}
    made.filters |= {"figure": plots.figure, "name": name, "percent": _percent, "when": _when, "short": _short}
    return made


def _percent(share: float | None) -> str:
    if share is None or not np.isfinite(share):
        return "–"
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"


def _when(window_id: str) -> str:
    """ "21 Nov 2026, 12:00 – 12:15" of an id; the end's day too where it is another."""
    start, end = (datetime.strptime(part, "%Y%m%dT%H%M%SZ") for part in checked(window_id).split("-"))
    day = "" if start.date() == end.date() else f"{end.day} {end:%b} "
    return f"{start.day} {start:%b %Y, %H:%M} – {day}{end:%H:%M}"


def _short(value: float | None) -> str:
    """Two digits: what fits under a thumbnail."""
    return "–" if value is None or not np.isfinite(value) else f"{value:.2g}" if abs(value) < 100 else f"{value:.0f}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer of the index at a time; the lock goes with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".index.lock", "a") as file:
        wait_for_lock(file, LOCK_SECONDS, f"the index of reports in {folder}")
        yield


# --- what is shown ----------------------------------------------------------------------------------------------------


def _entry(measures: Measures, decision: DriftDecision) -> dict:
    """The window in the index: small, for there are thousands."""
    drifted = measures.drifted()
    worst = max((ratio for finding in drifted if (ratio := _ratio(finding))), default=None)
    return {
        "id": measures.window.id,
        "outcome": decision.outcome,
        "sentence": textwrap.shorten(decision.sentence, 500, placeholder="…"),
        "version": name(measures.window.version),
        "rows": measures.window.rows,
        "drifted": len(drifted),
        "errors": sum(finding.status == "error" for finding in measures.findings),
        "alarms": len(decision.alarms),
        "worst": None if worst is None else round(worst, 2),
    }


def _cells(entries: Sequence[dict]) -> list[tuple[str, str]]:
    """At most CELLS cells for the entries, oldest first: each stands for the gravest of as many windows."""
    size = -(-len(entries) // CELLS) or 1
    grave = list(OUTCOMES)
    cells = []
    for end in range(len(entries), 0, -size):
        part = entries[max(end - size, 0) : end]
        worst = max(part, key=lambda entry: grave.index(entry["outcome"]))
        cells.append((worst["outcome"], f"{_when(worst['id'])}: {OUTCOMES[worst['outcome']][0]}"))
    return cells[::-1]


def _ratio(finding: Finding) -> float | None:
    """The finding relative to its threshold, where high is bad; accuracies, where low is, have none."""
    if finding.status == "info" or finding.value is None or not finding.threshold:
        return None
    ratio = finding.value / finding.threshold
    return ratio if np.isfinite(ratio) and ratio >= 0 and not finding.name.startswith("accuracy") else None


def _trend(measures: Measures, decision: DriftDecision, history: Sequence) -> list[tuple[Measures, DriftDecision]]:
    """The last TREND windows up to this one, oldest first."""
    known = {past.window.id: (past, decided) for past, decided in history if past.window.start < measures.window.start}
    return [*(known[key] for key in sorted(known)[-(TREND - 1) :]), (measures, decision)]


def _points(current: str, trend: Sequence[tuple[Measures, DriftDecision]]) -> list[dict]:
    points = []
    for past, decided in trend:
        known = [(ratio, finding.name) for finding in past.findings if (ratio := _ratio(finding)) is not None]
        ratio, worst = max(known, default=(None, ""))
        text = f"{_when(past.window.id)}: {OUTCOMES[decided.outcome][0]}"
        if ratio is not None:
            text += f", {name(worst)} at {ratio:.2f} of its threshold"
        points.append({"ratio": ratio, "outcome": decided.outcome, "title": text, "current": past.window.id == current})
    return points


def _groups(measures: Measures, trend: Sequence[tuple[Measures, DriftDecision]]) -> list[dict]:
    """The measures for the table: those that speak up first, the quiet ones apart. Each with its history."""
    past = [{finding.name: _ratio(finding) for finding in old.findings} for old, _ in trend]
    rows = [
        {
            "finding": finding,
            "ratio": _ratio(finding),
            "spark": plots.spark([old.get(finding.name) for old in past]) if _ratio(finding) is not None else "",
        }
        for finding in measures.findings
    ]
    rows.sort(key=lambda row: -(row["ratio"] or 0))
    loud = [row for row in rows if row["finding"].status in ("drifted", "error")]
    quiet = [row for row in rows if row["finding"].status == "ok"]
    info = [row for row in rows if row["finding"].status == "info"]
    return [
        {"title": "beyond their threshold", "rows": loud, "open": True},
        {"title": "as in the reference", "rows": quiet, "open": len(loud) + len(quiet) <= 12},
        {"title": "reported, not judged", "rows": info, "open": False},
    ]


def _named(findings: Sequence[Finding], word: str) -> list[Finding]:
    return [finding for finding in findings if finding.name.startswith(word)]


def _moved(table: pa.Table, ids: Sequence[str]) -> list[dict]:
    """The named rows of the window, in the order of `ids`."""
    columns = ["id", "source", "prediction", "confidence", "ood", "thumbnail", "image"]
    return [
        {
            "image": _picture(row["thumbnail"], row.get("image")),
            "label": _label(row["prediction"]),
            "confidence": row["confidence"],
            "ood": row["ood"],
            "source": row["source"],
        }
        for row in _rows(table, ids, columns)
    ]


def _typical(table: pa.Table, ids: Sequence[str], classes: Sequence[str]) -> list[dict]:
    """The named rows of the reference: the most probable class stands for the prediction."""
    found = []
    for row in _rows(table, ids, ["id", "label", "probabilities", "ood", "thumbnail"]):
        best = int(np.argmax(row["probabilities"])) if row["probabilities"] else None
        found.append(
            {
                "image": _picture(row["thumbnail"], None),
                "label": _label(row["label"]) if best is None else classes[best],
                "confidence": None if best is None else row["probabilities"][best],
                "ood": row["ood"],
                "source": None,
            }
        )
    return found


def _rows(table: pa.Table, ids: Sequence[str], columns: Sequence[str]) -> list[dict]:
    """One dict for each of `ids` that the table has; an id the log holds twice counts once. A window may have been read
    without its full images."""
    wanted = table.select([column for column in columns if column in table.column_names]).filter(
        pc.is_in(table["id"], pa.array(ids, pa.string()))
    )
    by_id = {row["id"]: row for row in wanted.to_pylist()}
    return [by_id[key] for key in ids if key in by_id]


def _label(value: str | list[str] | None) -> str:
    if isinstance(value, list):
        return " + ".join(value) or "(none)"
    return value or "(none)"


def _picture(thumbnail: bytes | None, image: bytes | None) -> str | None:
    """A JPEG or PNG data URI, made anew where only the full image is there; None where neither can be shown."""
    if thumbnail and thumbnail[:3] == b"\xff\xd8\xff":
        return "data:image/jpeg;base64," + base64.b64encode(thumbnail).decode()
    if not image:
        return None
    from tasks.dataset.decode import Undecodable, decode

    try:
        decoded = decode(image, 50_000_000)
    except Undecodable:
        return None
    decoded.thumbnail((64, 64))
    buffer = io.BytesIO()
    decoded.convert("RGB").save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _mix(measures: Measures) -> dict:
    """Share of each predicted class, before and after: those that moved most, by their share in the reference."""
    names = sorted(set(measures.mix) | set(measures.reference_mix))
    rows = [(label, measures.reference_mix.get(label, 0.0), measures.mix.get(label, 0.0)) for label in names]
    shown = sorted(rows, key=lambda row: -abs(row[1] - row[2]))[:MIX]
    top = max((max(row[1:]) for row in shown), default=0) or 1
    return {"rows": sorted(shown, key=lambda row: (-row[1], row[0])), "top": top, "more": len(rows) - len(shown)}


def _distributions(
    window: pa.Table, reference: pa.Table, findings: Sequence[Finding], classes: Sequence[str]
) -> list[dict]:
    """Reference against window for what drifted, worst first."""
    drifted = sorted((f for f in findings if f.status == "drifted"), key=lambda f: -(_ratio(f) or 0))
    shown = []
    for finding in drifted:
        sides = [_values(table, finding.name, classes, reference) for table in (reference, window)]
        drawn = plots.distribution(*sides, f"{name(finding.name)}: reference and this window")
        if drawn:
            medians = [float(np.median(side)) for side in sides]
            shown.append({"finding": finding, "plot": drawn, "was": medians[0], "now": medians[1]})
    return shown[:PLOTS]


def _values(table: pa.Table, measure: str, classes: Sequence[str], reference: pa.Table) -> np.ndarray:
    """(N,) finite values behind a measure's name; none where it is about no single number."""
    if measure.startswith("missing."):
        return np.empty(0)
    last = measure.rpartition(".")[2]
    if last in table.column_names and pa.types.is_primitive(table[last].type):
        return numbers(table, last)
    if last == "confidence":
        return confidence(table)
    if measure.startswith("embedding"):
        sides = directions(lists(table, "features"), lists(reference, "features"))
        return sides[0][:, 0] if sides[0].size else np.empty(0)
    probabilities = lists(table, "probabilities")
    if last in classes and probabilities.size:
        return probabilities[:, list(classes).index(last)]
    return np.empty(0)
