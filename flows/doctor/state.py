"""Checks of .evergreen/: who may read it, what is damaged, what waits."""

import json
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.doctor.finding import Finding, ok, problem, warning
from flows.labels import journal
from flows.repo import workspace
from monitoring.silence import monitor_silence
from tasks.common.paths import main_checkout, state_dir
from tasks.common.plural import counted
from tasks.common.private import CLOSED

SECRET = ("checkout.json", "sign-in.html", "tickets.json", "people.json")
OWN = ("cache", "releases", "remote", "prefect", "dvc", "runs")  # others read these: stages, the store, DVC, Prefect
SHOWN = 3


def permissions(root: Path) -> Finding:
    """Whether other users of the machine can read images, logs or the secret."""
    main, state = main_checkout(root), state_dir(root)
    folders = [state, *(main / name for name in CLOSED)]
    opened = [place for place in folders if place.is_dir() and _open_to_others(place)]
    opened += [state / name for name in SECRET if (state / name).is_file() and _open_to_others(state / name)]
    if opened:
        names = " ".join(str(place) for place in opened)
        return problem("permissions", f"other users can read {names}", f"`chmod go-rwx {names}`")
    return ok("permissions", "images, logs and the secret are closed to other users")


def damaged_files(root: Path) -> list[Finding]:
    """Files of state that are not JSON, and what was set aside before."""
    broken = [str(file) for file in _json_files(state_dir(root)) if not _parses(file)]
    aside = [str(file) for file in _files(state_dir(root)) if file.name.endswith(".damaged")]
    found = []
    if broken:
        cure = "the next command that reads them sets them aside and makes them again"
        found.append(problem("state", f"damaged: {_some(broken)}", cure))
    if aside:
        cure = "look what damaged them (a full disk? `dmesg`), then delete them"
        found.append(warning("state", f"set aside as damaged: {_some(aside)}", cure))
    return found or [ok("state", "every file that was read is whole")]


def label_journal(root: Path) -> list[Finding]:
    """Answers of people that wait to become a batch, and lines of the journal that cannot be read."""
    if not (state_dir(root) / "labels").is_dir():
        return [ok("labels", "no answer waits")]
    lost, waiting, idle = journal.unreadable(root), len(journal.pending(root)), journal.idle_seconds(root)
    if lost:
        cure = "look into .evergreen/labels/*.jsonl: give these answers again, then delete the lines"
        return [problem("labels", f"{counted(lost, 'line')} of the journal of answers cannot be read", cure)]
    if waiting and (idle or 0) > 86_400:
        return [warning("labels", f"{waiting} answers wait for {idle / 86_400:.0f} days", "`evergreen finish`")]
    return [ok("labels", f"{waiting} answers wait to be taken" if waiting else "no answer waits")]


def unfinished(root: Path) -> list[Finding]:
    """What killed commands left: erasures, runs."""
    found = []
    if any((state_dir(root) / "forget").glob("*.json")):
        found.append(problem("unfinished", "an erasure was interrupted", "`evergreen retrain` completes it first"))
    if died := workspace.crashed_runs(root):
        found.append(warning("unfinished", f"runs that died: {_some(died)}", "`evergreen retrain` goes on from there"))
    return found or [ok("unfinished", "no command was interrupted")]


def monitor(root: Path) -> Finding:
    """Whether the monitor runs, where services were started."""
    file, now = state_dir(root) / "services.json", datetime.now(UTC)
    if not file.is_file():
        return ok("monitor", "services are not started")
    silent = monitor_silence(root, now - timedelta(days=1), now)
    return problem("monitor", silent, "`evergreen monitor`, and see runner.log") if silent else ok("monitor", "runs")


def _open_to_others(place: Path) -> bool:
    mode = stat.S_IMODE(place.stat().st_mode)
    return bool(mode & 0o007) or bool(mode & 0o070 and not mode & stat.S_ISGID)


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.name.endswith(".damaged"):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from () if path.name in OWN else _files(path)
        else:
            yield path


def _json_files(state: Path) -> Iterator[Path]:
    yield from (file for file in _files(state) if file.suffix == ".json")
    for pattern in ("started.json", "ended.json", "verdict.json"):
        yield from (state / "runs").glob(f"*/{pattern}")
    yield from (path for path in state.glob("*.json") if path.is_dir())  # a folder in the place of a file


def _parses(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except (ValueError, OSError, RecursionError):
        return False
    return True


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more
