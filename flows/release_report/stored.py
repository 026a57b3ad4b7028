"""What a release report says, as data without pictures, for the pages of the console.

runs/<run id>/report.data in the release store is JSON, named so that it does not count as a run's record. Runs of
Evergreen 0.4 and before have none.
"""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from flows.release_report.facts import Row
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

SCHEMA = 1
PICTURES = ("image", "heat", "large")  # of mistakes, doubtful labels and quarantined files
LEFT_OUT = ("verdict", "checks", "queue", "about")  # in the run's record; of one machine; what follows
ABOUT = ("git_revision", "task", "backbone", "preprocess")  # of bundle.json


def key_of(run_id: str) -> str:
    """The key of the data of run `run_id`."""
    return f"runs/{run_id}/report.data"


def write_data(releases: Releases, run_id: str, view: Mapping[str, Any]) -> str:
    """Store `view`, what `flows.release_report.page.collect` made; it replaces older data of the run."""
    about = {name: view["about"].get(name) for name in ABOUT} | {"data": view["about"]["data"].get("sha256")}
    kept = {name: value for name, value in view.items() if name not in LEFT_OUT}
    plain = _plain({"schema": SCHEMA} | kept | {"about": about})
    content = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
    key = key_of(run_id)
    known = releases.store.read(key)
    if known is None or known[0] != content:
        releases.store.swap(key, content, known[1] if known else None)
    return key


def read_data(releases: Releases, run_id: str) -> dict[str, Any] | None:
    """The stored data of run `run_id`; None if there is none. Raises EvergreenError for damaged data."""
    if (found := releases.store.read(key := key_of(run_id))) is None:
        return None
    try:
        data = json.loads(found[0])
        refuse_newer(data["schema"], SCHEMA, f"{key} in the release store")
        return data
    except (ValueError, TypeError, KeyError) as error:
        raise EvergreenError(f"{key} in the release store is damaged: {error!r}") from None


def _plain(value: Any) -> Any:
    """`value` as JSON has it, without pictures."""
    if isinstance(value, Row):
        return {name: _plain(one) for name, one in value._asdict().items()} | {
            "change": value.change,
            "trend": value.trend,
        }
    if isinstance(value, Pointer):
        return {"version": value.version, "at": value.at.isoformat()}
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items() if name not in PICTURES}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and value != value:  # NaN
        return None
    if value is None or isinstance(value, str | int | float | bool):
        return value
    return value.item() if hasattr(value, "item") else str(value)
