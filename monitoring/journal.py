"""The journal: each window's measures and decision, stored next to the production log.

    windows/<window id>.json              {schema, measures, decision}: written once, the id sorts by time
    revisions/<window id>-<number>.json   {schema, at, measures}: labels came later, the window was measured again
    retrains/<window id>.json             empty; windows whose decision started a retraining, for the cooldown
    details/<window id>.json              {schema, details}: what its page shows besides (monitoring.contracts)
    acted-on/<period id>.json             empty; periods whose accuracy was a reason for that: they are not one again

One small object per entry: this works on a local folder and on S3, and monitors cannot overwrite each other. A revision
changes what a window measured, never what was decided then.
"""

import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime

from monitoring.contracts import DriftDecision, Measures, WindowDetails
from tasks.common.errors import NewerFormat, refuse_newer
from tasks.storage.blobs import Conflict, Store

SCHEMA_VERSION = 2  # of a window; those of Evergreen 0.1 do not say it; 1 knew no pause and no expected drift
TIME = "%Y%m%dT%H%M%SZ"
NAMED = re.compile(r"\bwindow ([0-9]{8}T[0-9]{6}Z-[0-9]{8}T[0-9]{6}Z)")

logger = logging.getLogger("evergreen.journal")


def window_id(start: datetime, end: datetime) -> str:
    """An id that sorts by time and names files: "20261121T120000Z-20261121T121500Z"."""
    return f"{start.astimezone(UTC):{TIME}}-{end.astimezone(UTC):{TIME}}"


def window_times(window: str) -> tuple[datetime, datetime] | None:
    """Start and end of a window id; None if it is none."""
    try:
        start, end = (datetime.strptime(part, TIME).replace(tzinfo=UTC) for part in window.split("-"))
    except ValueError:
        return None
    return start, end


def named_window(text: str) -> str | None:
    """The id of the window that `text`, such as the reason of a run, names as "window <id>"; None if it names none."""
    found = NAMED.search(text)
    return found[1] if found else None


class Journal:
    """The windows stored in `store` (the log's).

    `skipped` lists entries that could not be read, because they are damaged or of a newer Evergreen. They count as if
    the window had not happened.
    """

    def __init__(self, store: Store):
        self.store = store
        self.skipped: list[str] = []

    def append(self, measures: Measures, decision: DriftDecision, accuracy: Sequence[str] = ()) -> bool:
        """Save one window; False if another entry exists (the first one stays: it was acted on).

        accuracy: periods whose accuracy was a reason to retrain.
        """
        key = f"windows/{measures.window.id}.json"
        entry = {"measures": measures.model_dump(mode="json"), "decision": decision.model_dump(mode="json")}
        entry["schema"] = SCHEMA_VERSION
        if decision.outcome == "retrain":
            self.record_retrain(measures.window.id, accuracy)
        try:
            self.store.create(key, (json.dumps(entry, sort_keys=True, allow_nan=False) + "\n").encode())
        except Conflict:
            return False
        return True

    def recent(self, n: int) -> list[tuple[Measures, DriftDecision]]:
        """The newest `n` windows that can be read, oldest first."""
        found: list[tuple[Measures, DriftDecision]] = []
        self.skipped = []
        revisions = self.revisions()
        for window in reversed(self.windows()):
            if len(found) == n:
                break
            if (pair := self._read(window, revisions)) is not None:
                found.append(pair)
        return found[::-1]

    def windows(self) -> list[str]:
        """The ids of all windows, oldest first."""
        return [key.removeprefix("windows/").removesuffix(".json") for key in self.store.list("windows/")]

    def read(self, window: str, revisions: dict[str, int] | None = None) -> tuple[Measures, DriftDecision] | None:
        """A window's newest measures and its decision; None if it is unknown or cannot be read.

        revisions: of `revisions()`, where many windows are read.
        """
        return self._read(window, self.revisions(window) if revisions is None else revisions)

    def revise(self, measures: Measures, at: datetime) -> bool:
        """Record that a window was measured again; False if its newest measures say the same."""
        window = measures.window.id
        known = self.read(window)
        if known is None or known[0] == measures:
            return False
        entry = {"schema": SCHEMA_VERSION, "at": at.isoformat(), "measures": measures.model_dump(mode="json")}
        content = (json.dumps(entry, sort_keys=True, allow_nan=False) + "\n").encode()
        number = self.revisions(window).get(window, 0) + 1
        while True:
            try:
                self.store.create(f"revisions/{window}-{number}.json", content)
            except Conflict:  # another monitor revised it meanwhile
                number += 1
            else:
                return True

    def revised_at(self, window: str) -> datetime | None:
        """When a window was last measured again."""
        number = self.revisions(window).get(window)
        entry = self._load(f"revisions/{window}-{number}.json") if number else None
        return datetime.fromisoformat(entry["at"]) if entry else None

    def revisions(self, window: str = "") -> dict[str, int]:
        """The highest number of a revision, by window."""
        newest: dict[str, int] = {}
        for key in self.store.list(f"revisions/{window}"):
            name, _, number = key.removeprefix("revisions/").removesuffix(".json").rpartition("-")
            newest[name] = max(newest.get(name, 0), int(number)) if number.isdecimal() else newest.get(name, 0)
        return newest

    def _read(self, window: str, revisions: dict[str, int]) -> tuple[Measures, DriftDecision] | None:
        entry = self._load(f"windows/{window}.json", "measures", "decision")
        if entry is None:
            return None
        for number in range(revisions.get(window, 0), 0, -1):  # an unreadable revision leaves the one before
            newer = self._load(f"revisions/{window}-{number}.json", "measures")
            if newer is not None:
                return newer["measures"], entry["decision"]
        return entry["measures"], entry["decision"]

    def _load(self, key: str, *parts: str) -> dict | None:
        """An entry with its `parts` as models; None, and `key` in `skipped`, if it cannot be read."""
        models = {"measures": Measures, "decision": DriftDecision}
        try:
            entry = json.loads(self.store.read(key)[0])
            refuse_newer(entry.get("schema"), SCHEMA_VERSION, f"{key} in the monitor's journal")
            return entry | {part: models[part].model_validate(entry[part]) for part in parts}
        except NewerFormat as error:
            logger.warning("%s", error)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        self.skipped.append(key)
        return None

    def record_retrain(self, window: str, accuracy: Sequence[str] = ()) -> None:
        """Record that `window` started a retraining; `accuracy`: periods whose accuracy was a reason.

        Many new labels or an old model start one without measures.
        """
        for period in accuracy:
            self.store.create(f"acted-on/{period}.json", b"{}\n")
        self.store.create(f"retrains/{window}.json", b"{}\n")

    def acted_on(self) -> set[str]:
        """The periods whose accuracy has started a retraining."""
        return {key.removeprefix("acted-on/").removesuffix(".json") for key in self.store.list("acted-on/")}

    def retrains(self) -> list[datetime]:
        """Ends of the windows that started a retraining, oldest first."""
        return [datetime.strptime(id_.partition("-")[2], TIME).replace(tzinfo=UTC) for id_ in self.retrained()]

    def retrained(self) -> list[str]:
        """Ids of the windows that started a retraining, oldest first."""
        return [key.removeprefix("retrains/").removesuffix(".json") for key in self.store.list("retrains/")]

    def keep_details(self, window: str, details: WindowDetails) -> None:
        """Keep what the window's page shows besides its measures; replaces what is kept."""
        key = f"details/{window}.json"
        content = json.dumps({"schema": SCHEMA_VERSION, "details": details.model_dump(mode="json")}, allow_nan=False)
        known = self.store.read(key)
        self.store.swap(key, content.encode(), known[1] if known else None)

    def details(self, window: str) -> WindowDetails | None:
        """What `keep_details` kept; None if it is unknown or cannot be read: it can be computed again."""
        found = self.store.read(f"details/{window}.json")
        if found is None:
            return None
        try:
            entry = json.loads(found[0])
            refuse_newer(entry["schema"], SCHEMA_VERSION, f"details/{window}.json in the monitor's journal")
            return WindowDetails.model_validate(entry["details"])
        except (NewerFormat, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.warning("the details of window %s are skipped: %s", window, error)
            return None

    def prune(self, keep: int) -> int:
        """Delete the oldest windows until `keep` are left; returns how many were deleted."""
        gone = list(self.store.list("windows/"))[: -keep or None]
        for key in gone:
            self.store.remove(key)
            self.store.remove(key.replace("windows/", "retrains/", 1))
            window = key.removeprefix("windows/").removesuffix(".json")
            self.store.remove(f"details/{window}.json")
            for revision in list(self.store.list(f"revisions/{window}-")):
                self.store.remove(revision)
        return len(gone)
