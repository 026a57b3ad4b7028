"""What every window measured and what was decided on it, beside the production log it came from.

    windows/<window id>.json       {measures, decision}: written once, the id sorts by time
    retrains/<window id>.json      empty; the windows whose decision started a retraining, for its cooldown

One small object a window, so a local folder and S3 hold it alike, and several monitors cannot overwrite each other.
"""

import json
from datetime import UTC, datetime

from monitoring.contracts import DriftDecision, Measures
from tasks.storage.blobs import Conflict, Store

TIME = "%Y%m%dT%H%M%SZ"


def window_id(start: datetime, end: datetime) -> str:
    """Sorts by time and names files: "20261121T120000Z-20261121T121500Z"."""
    return f"{start.astimezone(UTC):{TIME}}-{end.astimezone(UTC):{TIME}}"


class Journal:
    """The windows kept in `store` (the log's). `skipped` names entries that could not be read: of an older schema, or
    damaged; they count as if there had been no window."""

    def __init__(self, store: Store):
        self.store = store
        self.skipped: list[str] = []

    def append(self, measures: Measures, decision: DriftDecision) -> bool:
        """Keep one window; False where it is there already (the first one stays: it was acted on)."""
        key = f"windows/{measures.window.id}.json"
        entry = {"measures": measures.model_dump(mode="json"), "decision": decision.model_dump(mode="json")}
        if decision.outcome == "retrain":
            self.retrained(measures.window.id)
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
                pair = Measures.model_validate(entry["measures"]), DriftDecision.model_validate(entry["decision"])
            except (ValueError, KeyError, TypeError):
                self.skipped.append(key)
                continue
            found.append(pair)
        return found[::-1]

    def retrained(self, window: str) -> None:
        """Window `window` started a retraining (one that was never measured may: many labels, an old model)."""
        self.store.create(f"retrains/{window}.json", b"{}\n")

    def retrains(self) -> list[datetime]:
        """Ends of the windows that started a retraining, oldest first."""
        ids = [key.removeprefix("retrains/").removesuffix(".json") for key in self.store.list("retrains/")]
        return [datetime.strptime(id_.partition("-")[2], TIME).replace(tzinfo=UTC) for id_ in ids]

    def prune(self, keep: int) -> int:
        """Remove the oldest windows until `keep` are left; how many went."""
        gone = list(self.store.list("windows/"))[: -keep or None]
        for key in gone:
            self.store.remove(key)
            self.store.remove(key.replace("windows/", "retrains/", 1))
        return len(gone)
