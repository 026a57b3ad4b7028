"""Points at which a test kills the process, as a power loss or the out-of-memory killer would.

`EVERGREEN_FAILPOINT=ingest.after_shard evergreen ingest ...` ends with SIGKILL when it reaches that point: no handler
runs, no file is flushed. `ingest.after_shard:3` kills the third time. Names are "<module>.<where>"; POINTS lists them
all. Without the variable, a point costs one look-up.
"""

import os
import signal
from collections import Counter

POINTS = {  # module -> where; `python -m benchmarks.kills` kills at each of them
    "classes": ("written", "recorded"),
    "ledgers": ("claimed", "replaced"),
    "hard": ("written", "ingested", "recorded"),
    "held": ("uploaded", "pushed", "kept", "published", "noted", "released"),
    "erase": ("shard", "batch", "removed"),
    "files": ("temporary", "placed", "folder", "aside", "folder_placed"),
    "forget": (
        *("journal", "ledger", "rewritten", "committed", "redacted", "log", "records", "state"),
        *("exports", "prefect", "objects", "proof"),
        *("redacting", "reference", "object"),
    ),
    "gc": ("retired", "removed"),
    "ingest": ("after_shard", "after_annotations", "before_manifest", "after_manifest", "after_measures"),
    "labels": ("recording", "recorded", "aside", "written", "stored", "committed"),
    "late_labels": ("revised", "shown"),
    "pipeline": ("removed", "ran", "restored", "committed"),
    "publish": ("start", "uploaded", "audited", "committed", "pushed", "registered", "promoted", "assigned"),
    "refused": ("noted",),
    "restore": ("placed",),
    "rollback": ("tombstoned", "verified", "promoted", "restored"),
    "rollout": ("begun", "advanced", "promoted", "ended", "recorded"),
    "store": ("object", "temporary", "placed", "swapped", "part"),  # part: of an upload to S3
    "train_backbone": ("epoch",),  # with its number: train_backbone.epoch.2
    "verify": ("dropped", "repaired"),
    "workspace": ("folder", "added", "configured", "died", "removed"),
}

hits: Counter[str] = Counter()  # how often each point was reached, while the variable is set


def failpoint(name: str) -> None:
    """Kill this process if EVERGREEN_FAILPOINT names this point."""
    if not (wanted := os.environ.get("EVERGREEN_FAILPOINT")):
        return
    hits[name] += 1
    point, _, number = wanted.partition(":")
    if point == name and hits[name] == int(number or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def names() -> list[str]:
    """All points in the form that the variable takes."""
    return [f"{module}.{where}" for module, places in POINTS.items() for where in places]
