"""The page of experiments: what was tried, and what each came to, as DVC's experiment table has it."""

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from fastapi.responses import Response

from flows.console.shell.console import console_of
from flows.console.shell.page import csv_download, page
from flows.experiments.plan import spoken
from flows.publishing.experiment_table import Row, rows

SHOWN = 200  # rows, the newest first
FIGURES = ("calibration_score", "test", "gain", "hard", "few", "ece", "latency_ms", "seconds")
COLUMNS = ("name", "settings", "at", "by", "gate", "champion", *FIGURES, "sentence")
WORDS = {"promote": "would be promoted", "hold": "would be held", "reject": "would be rejected"}

router = APIRouter()


@router.get("/experiments")
def experiments(request: Request, format: str = "") -> Response:
    """All experiments, newest first."""
    found = [row for row in reversed(rows(console_of(request).root)) if row.kind == "experiment"]
    if format == "csv":
        return csv_download("experiments", COLUMNS, map(_cells, found))
    shown = [_shown(row) for row in found[:SHOWN]]
    more = len(found) - len(shown)
    return page(
        request, "runs/experiments.html", title="Experiments", section="/runs", rows=shown, more=more, csv="?format=csv"
    )


def _shown(row: Row) -> dict:
    figures = row.figures
    return {
        "name": row.name,
        "settings": spoken(row.changes),
        "at": _time(row),
        "by": row.by,
        "gate": figures.get("outcome"),
        "words": WORDS.get(figures.get("outcome"), "not judged"),
        "champion": row.champion,
        "sentence": row.sentence,
        "figures": figures,
    }


def _cells(row: Row) -> list:
    figures = [row.figures.get(name) for name in FIGURES]
    about = [row.name, spoken(row.changes), _time(row).isoformat(), row.by, row.figures.get("outcome"), row.champion]
    return [*about, *figures, row.sentence]


def _time(row: Row) -> datetime:
    return datetime.fromtimestamp(row.at, UTC)
