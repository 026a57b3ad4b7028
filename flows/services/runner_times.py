"""When the monitor looks next, without asking Prefect: it looks at fixed intervals since 2020."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.server.processes import created
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect_dict, read_rebuildable

ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)  # start of all intervals, so that a restart does not shift them


def next_look(root: Path, params: Params, now: datetime) -> datetime | None:
    """When the monitor is due next; None while no runner of this project is alive."""
    about = read_rebuildable(state_dir(root) / "services.json", lambda found: expect_dict(found["services"], dict))
    runner = (about or {}).get("runner", {})
    if not runner.get("pid") or created(runner["pid"]) != runner.get("created"):
        return None
    every = timedelta(minutes=params.serve.monitor_minutes)
    return ANCHOR + ((now - ANCHOR) // every + 1) * every
