"""What services printed, and sentences about one that does not run as it should."""

from datetime import datetime
from pathlib import Path

from flows.server.process import last_line
from tasks.common.paths import state_dir

LOGS = {"prefect": "server"}  # where a service's log has another name


def log_of(root: Path, name: str) -> Path:
    """The file with the output of a service."""
    return state_dir(root) / f"{LOGS.get(name, name)}.log"


def keeps_ending(root: Path, name: str) -> str:
    """What `evergreen up` says of a service that ended again and again."""
    log = log_of(root, name)
    return (
        f"{name} keeps ending: {last_line(log)} (in {log.name}). The other services go on, and {name} is started "
        "again and again until it stays: `evergreen status` shows whether it does"
    )


def not_well(name: str, restarts: int | None) -> str:
    """How a service without an address is; restarts: so far, None where no process would start it again."""
    if restarts is None:
        return "not started"
    return f"is being restarted (restarts so far: {restarts}); see {name}.log" if restarts > 0 else "starts"


def said_last(root: Path, name: str, since: datetime | None) -> str:
    """The last line of a service's log. since: only of the process that started then."""
    log = log_of(root, name)
    if not log.is_file() or (since is not None and log.stat().st_mtime < since.timestamp()):
        return ""
    return last_line(log)
