"""The error review of a month, from the production log, people's labels and the data set.

.evergreen/reports/errors/<month>.json    {schema, key, review}: made again when answers, labels or data have changed
"""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from flows.labels.class_reading import current_taxonomy
from flows.labels.samples import find_samples
from flows.labels.stones import tombstones_now
from flows.production.late_labels import unique
from flows.publishing.history import open_project
from flows.publishing.rollback import batches_at
from flows.repo.objects import open_objects
from monitoring.live.errors import Review, months_around, review
from monitoring.live.labels import ANSWER, Truth, in_common_names, truths, with_truth
from monitoring.live.periods import Period, measure_period
from monitoring.log.production_log import Log
from monitoring.pages.live import reports_dir
from monitoring.review.queue import queued
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import content_key, write_json
from tasks.common.params import Params
from tasks.common.paths import main_checkout
from tasks.common.private import make_folder
from tasks.common.rebuildable import read_rebuildable
from tasks.labels.changes import FOLDER as CHANGES
from tasks.labels.taxonomy import Taxonomy
from tasks.releases.pointer import Pointer

SCHEMA_VERSION = 1
SAMPLE = 20_000  # answers of a month that are read; their confidences stand for all
COLUMNS = ("id", "at", "source", "confidence", "prediction", "bundle")
Limit = Callable[[str | None], float | None]  # bundle -> the score above which its model calls an image unfamiliar


def error_review(root: Path, params: Params, log: Log, month: str, limit: Limit) -> Review | None:
    """What production got wrong in a month ("2026-11"); None if none of its answers has a label.

    Raises EvergreenError for a text that is not a month.
    """
    try:
        months_around(month)
    except ValueError:
        raise EvergreenError(f"{month[:20]!r} is not a month: expected a year and a month like 2026-11") from None
    file = reports_dir(root) / "errors" / f"{month}.json"
    live = open_project(root)[1].live()
    key = _key(root, params, log, month, live)

    def accept(about: dict) -> tuple[str, Review]:
        refuse_newer(about["schema"], SCHEMA_VERSION, str(file))
        return about["key"], Review.model_validate(about["review"])

    kept = read_rebuildable(file, accept, "the month is measured again")
    if kept is not None and kept[0] == key:
        return kept[1]
    found = _measure(root, params, log, month, limit, live)
    if found is not None:
        make_folder(file.parent)
        write_json(file, {"schema": SCHEMA_VERSION, "key": key, "review": found.model_dump(mode="json")})
    return found


def months(log: Log) -> list[str]:
    """The months with answers, newest first."""
    return sorted({key[:7] for key in log.answer_keys()}, reverse=True)


def default_month(log: Log, now: datetime | None = None) -> str:
    """The last month that is over and has answers; else the newest with any."""
    known, present = months(log), f"{now or datetime.now(UTC):%Y-%m}"
    return next((month for month in known if month < present), known[0] if known else present)


def _key(root: Path, params: Params, log: Log, month: str, live: Pointer | None) -> str:
    before, _, _ = months_around(month)
    files = [key for key in log.answer_keys() if key[:7] in (month, f"{before:%Y-%m}")]
    data = root / "data"
    names = [sorted(file.name for file in (data / name).glob("*")) for name in ("batches", "annotations", CHANGES)]
    stones = sorted(tombstones_now(root, params))
    return content_key(files, log.label_keys(), list(log.store.list("queue/")), names, stones, live.seq if live else 0)


def _measure(root: Path, params: Params, log: Log, month: str, limit: Limit, live: Pointer | None) -> Review | None:
    before, start, end = months_around(month)
    taxonomy = current_taxonomy(root)
    known = truths(log.labels(), queued(log), taxonomy)
    labelled = _labelled(log, known, start, end, taxonomy)
    if not len(labelled):
        return None
    answers, total = _answers(log, params, start, end)
    labelled = labelled.append_column("unfamiliar", _unfamiliar(labelled, limit))
    since = learnt_since(root, params, labelled["id"].to_pylist(), live)
    return review(month, answers, labelled, total, _month_before(log, params, known, taxonomy, before, start), since)


def _labelled(log: Log, known: dict[str, Truth], start: datetime, end: datetime, taxonomy: Taxonomy) -> pa.Table:
    found = log.answers(known, start, end, (*ANSWER, "ood"))
    return in_common_names(with_truth(found, known), taxonomy)


def _answers(log: Log, params: Params, start: datetime, end: datetime) -> tuple[pa.Table, int]:
    """(a random sample of the answers, each image once; how many there are)."""
    table, _, rows = log.window(start, end, COLUMNS, SAMPLE, params.drift.seed)
    answered = unique(table.filter(pc.is_valid(table["prediction"])))
    return answered, round(rows * len(answered) / max(len(table), 1))


def _month_before(
    log: Log, params: Params, known: dict[str, Truth], taxonomy: Taxonomy, start: datetime, end: datetime
) -> Period | None:
    labelled = _labelled(log, known, start, end, taxonomy)
    if not len(labelled):
        return None
    answers, total = _answers(log, params, start, end)
    return measure_period(start, "", "", answers, labelled, total)


def _unfamiliar(labelled: pa.Table, limit: Limit) -> pa.Array:
    limits = {bundle: limit(bundle) for bundle in set(labelled["bundle"].to_pylist())}
    found = []
    for bundle, score in zip(labelled["bundle"].to_pylist(), labelled["ood"].to_pylist(), strict=True):
        bound = limits[bundle]
        known = bound is not None and score is not None and np.isfinite(score)
        found.append(bool(score > bound) if known else None)
    return pa.array(found, pa.bool_())


def learnt_since(root: Path, params: Params, ids: list[str], live: Pointer | None) -> dict[str, tuple[str, bool]]:
    """Image id -> (its split in data/, whether the live version was trained on it), of those that came into data/."""
    if not (root / "data" / "dataset.json").is_file():
        return {}
    rows = find_samples(root / "data", ids, tombstones_now(root, params)).to_pylist()
    if not rows:
        return {}
    batches: set[str] = set()
    if live is not None:
        main = main_checkout(root)
        try:
            with open_objects(main) as objects:
                batches = {one.batch for one in batches_at(main, objects, live.git_rev)}
        except EvergreenError:  # its data are elsewhere: then nobody here knows
            batches = set()
    return {row["id"]: (row["split"], row["split"] == "train" and row["batch"] in batches) for row in rows}
