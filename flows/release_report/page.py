"""Writes the release report of one run: what the gate decided and why.

It is for readers who did not follow the run. One HTML file that opens from disk. It loads nothing and runs no scripts.
Jinja's autoescape escapes every name, path and label, and a content security policy forbids scripts. Sections open and
close by HTML's own <details>. The file is written next to the run's workspace; a copy in the release store, `runs/<run
id>/report.html`, outlives the workspace, and so does what the page says, as data (flows.release_report.stored).
"""

import importlib.metadata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from flows.publishing.outcomes import Ending
from flows.release_report import changes, charts, facts, images, measures, stored
from flows.release_report.figures import figure, key_figures, percent, points, words
from flows.repo.label_issues import queue_file
from monitoring.console_link import console_link
from tasks.common.checks import Check
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.params import Params
from tasks.common.paths import cache_dir
from tasks.common.text import escape_markdown
from tasks.gate.verdict import GateVerdict
from tasks.releases import bundle
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

BY_CHANCE = 0.05  # share of test images newer than all training images that a division at random may give
SIBLINGS = (
    "Siblings are images of one object, found by file names or features: {sentence}. If they are right, record groups "
    "(docs/layouts.md)."
)
LARGEST = 3_000_000  # bytes of the page
TEMPLATES = Path(__file__).parent / "templates"
LIBRARIES = ("dvc", "prefect", "cleanlab", "great-expectations", "scikit-learn", "evidently")

HEADLINES = {
    "promoted": "{version} is live",
    "held": "Held back: {champion} stays live",
    "rejected": "Rejected: {champion} stays live",
}
PROVISIONAL = (
    "This model is provisional: better than chance, but below what a first model should reach. Use its answers as "
    "suggestions. The next model that the gate promotes replaces it."
)
PROBE_WON = (
    "A probe won: on the calibration images, a classifier on the frozen pretrained network was {lead:.1f} points "
    "better than the fine-tuned network (standard error {error:.1f}), so the model is the probe. Fine-tuning does not "
    "help with these images yet: more labels, a larger images.resolution or other train_backbone settings may change "
    "that."
)


class Report(NamedTuple):
    """Where the page was written, and its first screen."""

    path: Path  # next to the run's workspace
    key: str  # in the release store
    kept: Path | None  # the copy in the release store, if the store is a folder
    markdown: str  # the first screen, for Prefect


def write(root: Path, params: Params, releases: Releases, run_id: str, ending: Ending, reason: str = "") -> Report:
    """Write the page of the run in worktree `root`, which ended as `ending`, and copy it to the release store.

    Raises EvergreenError for a run without a verdict: there is nothing to report.
    """
    if ending.verdict is None:
        raise EvergreenError(f"run {run_id} ended as {ending.outcome} without a verdict: it has no release report")
    view = collect(root, params, releases, run_id, ending, reason)
    page = render(view)
    path = root.parent / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    stored.write_data(releases, run_id, view)
    key = store_page(releases, run_id, page.encode())
    folder = getattr(releases.store, "root", None)
    return Report(path, key, folder / key if isinstance(folder, Path) else None, markdown(view))


def store_page(releases: Releases, run_id: str, page: bytes) -> str:
    """Put `page` into the store; it replaces an older page of the same run."""
    key = f"runs/{run_id}/report.html"
    known = releases.store.read(key)
    if known is None or known[0] != page:
        releases.store.swap(key, page, known[1] if known else None)
    return key


def collect(root: Path, params: Params, releases: Releases, run_id: str, ending: Ending, reason: str) -> dict[str, Any]:
    """Everything the page says, as plain values."""
    verdict = ending.verdict
    champion = next((one for one in reversed(releases.history()) if one.version == verdict.champion), None)
    about = bundle.read(root / "artifacts/bundle")
    old_about, old_predictions = _champion(root, params, champion, about["classes"])
    predictions = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    both = facts.pair(predictions, old_predictions, about, old_about, about["classes"])
    test = np.flatnonzero(both.sets["test"])
    evaluated = about["metrics"]["evaluate"]
    rows = facts.table(both, params.gate, params.calibrate.cost_false_negative)
    known, before = both.new.part(test), both.old.part(test) if both.old else None
    names = {"version": ending.version, "champion": verdict.champion or "nothing"}
    return {
        "run_id": run_id,
        "reason": reason,
        "at": datetime.now(UTC),
        "model": about["name"],
        "outcome": ending.outcome,
        "headline": headline(ending).format(**names),
        "sentence": _sentence(ending.sentence, verdict.checks),
        "notes": notes(about, verdict),
        "remedies": [remedy.text for remedy in ending.remedies],
        "verdict": verdict,
        "champion": champion,
        "confidence": params.gate.confidence,
        "key_figures": key_figures(rows, about, old_about),
        "checks": _checks(verdict.checks),
        "rows": rows,
        "picked": facts.how_picked(root, predictions, both.sets),
        "outlook": facts.outlook(root, params),
        "recalls": facts.recalls(both, about),
        "confusion": charts.confusion(known) if about["task"] == "multiclass" else None,
        "reliability": charts.reliability(known),
        "calibrated": charts.calibrated(about),
        "old_reliability": charts.reliability(before) if before else None,
        "alone": charts.answered_alone(known, before, evaluated.get("people")),
        "plausible": measures.plausible(root, evaluated),
        "unfamiliar": measures.unfamiliar(about),
        "curves": charts.precision_recall(known),
        "old_curves": charts.precision_recall(before) if before else None,
        "images": len(test),
        "task": about["task"],
        **images.mistakes(root, params, both, test),
        **images.issues(root, params),
        "to_label": console_link(root, "/label/issues") if queue_file(root, run_id).is_file() else None,
        **images.quarantine(root, params),
        "changes": changes.changes(root, about, old_about, champion),
        "about": about,
        "commands": changes.commands(root, about, ending, champion, releases),
        "versions": about["versions"] | _installed(LIBRARIES),
    }


def _champion(
    root: Path, params: Params, champion: Pointer | None, classes: list[str]
) -> tuple[dict | None, pa.Table | None]:
    """(bundle.json, predictions) of the champion in the names of today, from the cache that the gate filled."""
    if champion is None:
        return None, None
    from tasks.gate.champion import champion_evidence

    folder = cache_dir("bundles", root) / champion.bundle
    predictions = pq.read_table(root / "artifacts/evaluate/predictions.parquet")
    table, measured = champion_evidence(root, folder, predictions, classes, params)
    return bundle.read(folder) | {name: measured.get(name) for name in ("thresholds", "weights")}, table


def _sentence(text: str, checks: Sequence[Check]) -> str:
    """The verdict's sentence with the plain names of checks and without the outcome, which the headline says."""
    for check in sorted(checks, key=lambda check: -len(check.name)):
        if check.status != "pass" and "." in check.name:
            text = text.replace(check.name, words(check.name).replace(": ", ", "))
    _, colon, rest = text.partition(": ")
    rest = rest if colon else text
    return rest[:1].upper() + rest[1:]


def headline(ending: Ending) -> str:
    """The page's title, before the versions are filled in."""
    live = ending.outcome == "promoted" and ending.verdict is not None and ending.verdict.provisional
    return HEADLINES[ending.outcome] + (", provisionally" if live else "")


def notes(about: dict, verdict: GateVerdict) -> list[str]:
    """What a reader must know beyond the verdict's sentence."""
    head = about["metrics"].get("train_head", {})
    found = [PROVISIONAL] if verdict.provisional else []
    if head.get("network") == "pretrained":
        found.append(PROBE_WON.format(lead=100 * head["probe_lead"], error=100 * head["probe_lead_error"]))
    found += head.get("advice", [])
    siblings = about["metrics"].get("evaluate", {}).get("siblings") or {}
    if siblings.get("with"):
        found.append(SIBLINGS.format(sentence=siblings["sentence"]))
    later = about["metrics"].get("evaluate", {}).get("later")
    if later and later["later"] >= BY_CHANCE * later["test_rows"]:  # else the splits were not divided by time
        found.append(later["sentence"][:1].upper() + later["sentence"][1:] + ".")
    return found


def _checks(checks: Sequence[Check]) -> list[dict]:
    """Checks with their pictures: failed checks first, then comparisons, bounds and plain facts."""
    pictures = charts.forest(checks)
    order = {"floor": 0, "difference": 1, "bound": 2, "fact": 3}
    rows = [{"check": check, "picture": picture} for check, picture in zip(checks, pictures, strict=True)]
    return sorted(rows, key=lambda row: (row["check"].status == "pass", order[row["picture"]["kind"]]))


def _installed(names: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


# --- out -------------------------------------------------------------------------------------------------------


def render(view: dict[str, Any]) -> str:
    """`view` as HTML. If the page would be larger than LARGEST, images are left out, the last ones first."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = {"figure": figure, "percent": percent, "points": points}
    environment.filters |= shown | {"words": words}
    environment.globals |= shown
    template, style = environment.get_template("release.html"), (TEMPLATES / "release.css").read_text()
    page = template.render(style=style, **view)
    while len(page.encode()) > LARGEST and (view["mistakes"] or view["issues"] or view["quarantine"]):
        for name in ("mistakes", "issues", "quarantine"):
            view = view | {name: view[name][: len(view[name]) // 2]}
        page = template.render(style=style, **view)
    return page


def markdown(view: dict[str, Any]) -> str:
    """The first screen as Markdown for Prefect; all text is escaped."""
    lines = [
        f"# {escape_markdown(view['headline'])}",
        escape_markdown(view["sentence"]),
        "| figure | value | change |",
        "|---|---|---|",
    ]
    lines += [
        f"| {escape_markdown(one['name'])} | {escape_markdown(one['value'])} {one['unit']} "
        f"| {escape_markdown(one['change'] or '')} |"
        for one in view["key_figures"]
    ]
    todo = [f"{number}. {escape_markdown(text)}" for number, text in enumerate(view["remedies"], 1)]
    lines += ["", *todo] if todo else []
    return "\n\n".join(lines[:2]) + "\n\n" + "\n".join(lines[2:]) + "\n"
