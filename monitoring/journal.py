"""The journal: each window's measures and decision, stored next to the production log.

    windows/<window id>.json       {schema, measures, decision}: written once, the id sorts by time
    retrains/<window id>.json      empty; windows whose decision started a retraining, for the cooldown

One small object per window: this works on a local folder and on S3, and monitors cannot overwrite each other.
"""

import json
import logging
from datetime import UTC, datetime

from monitoring.contracts import DriftDecision, Measures
from tasks.common.errors import NewerFormat, refuse_newer
from tasks.storage.blobs import Conflict, Store

SCHEMA_VERSION = 1  # of a window; those of Evergreen 0.1 do not say it
TIME = "%Y%m%dT%H%M%SZ"

logger = logging.getLogger("evergreen.journal")


def window_id(start: datetime, end: datetime) -> str:
    """An id that sorts by time and names files: "20261121T120000Z-20261121T121500Z"."""
    return f"{start.astimezone(UTC):{TIME}}-{end.astimezone(UTC):{TIME}}"


class Journal:
    """The windows stored in `store` (the log's).

    `skipped` lists entries that could not be read, because they are damaged or of a newer Evergreen. They count as if
    the window had not happened.
    """

    def __init__(self, store: Store):
        self.store = store
        self.skipped: list[str] = []

    def append(self, measures: Measures, decision: DriftDecision) -> bool:
        """Save one window; False if another entry exists (the first one stays: it was acted on)."""
        key = f"windows/{measures.window.id}.json"
        entry = {"measures": measures.model_dump(mode="json"), "decision": decision.model_dump(mode="json")}
        entry["schema"] = SCHEMA_VERSION
        if decision.outcome == "retrain":
            self.record_retrain(measures.window.id)
        try:
            self.store.create(key, (json.dumps(entry, sort_keys=True, allow_nan=False) + "\n").encode())
        except Conflict:
            return False
        return True

    def recent(self, n: int) -> list[tuple[Measures, DriftDecision]]:
        """The newest `n` windows that can be read, oldest first."""
        found: list[tuple[Measures, DriftDecision]] = []
        self.skipped = []
        for key in reversed(list(self.store.list("windows/"))):
            if len(found) == n:
                break
            try:
                entry = json.loads(self.store.read(key)[0])
                refuse_newer(entry.get("schema"), SCHEMA_VERSION, f"{key} in the monitor's journal")
                pair = Measures.model_validate(entry["measures"]), DriftDecision.model_validate(entry["decision"])
            except NewerFormat as error:
                logger.warning("%s", error)
                self.skipped.append(key)
                continue
            except (ValueError, KeyError, TypeError, AttributeError):
                self.skipped.append(key)
                continue
            found.append(pair)
        return found[::-1]

    def record_retrain(self, window: str) -> None:
        """Record that `window` started a retraining.

        Many new labels or an old model start one without measures.
        """
        self.store.create(f"retrains/{window}.json", b"{}\n")

    def retrains(self) -> list[datetime]:
        """Ends of the windows that started a retraining, oldest first."""
        ids = [key.removeprefix("retrains/").removesuffix(".json") for key in self.store.list("retrains/")]
        return [datetime.strptime(id_.partition("-")[2], TIME).replace(tzinfo=UTC) for id_ in ids]

    def prune(self, keep: int) -> int:
        """Delete the oldest windows until `keep` are left; returns how many were deleted."""
        gone = list(self.store.list("windows/"))[: -keep or None]
        for key in gone:
            self.store.remove(key)
            self.store.remove(key.replace("windows/", "retrains/", 1))
        return len(gone)
