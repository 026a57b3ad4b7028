"""Which processes are the project's own Prefect server, with a record or without one.

server.json records a server as soon as its process exists, and again once it answers. A start that is killed before
that, and a damaged server.json, leave a server without a record: its command and its folder tell whose it is.
"""

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tasks.common.files import write_json
from tasks.common.paths import state_dir
from tasks.common.rebuildable import expect, read_rebuildable

MODULE = "flows.server.serve"
STOP_SECONDS = 15


def created(pid: int) -> str | None:
    """When process `pid` was created, in which start of the machine; None if it is dead.

    Together with the pid this identifies one process. It does not move when somebody sets the clock.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        if sys.platform != "linux":
            return f"{process.create_time():.2f}"
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot()} {ticks}"
    except (psutil.Error, OSError):
        return None


def boot() -> str:
    """Names the machine's present start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def recorded(root: Path) -> dict[str, Any] | None:
    """What server.json holds: {pid, created, boot, url, ui, checkout, ready}; None if it is missing or damaged."""
    return read_rebuildable(_file(root), _accept, "the server is looked for among the processes")


def record(root: Path, pid: int, url: str, checkout: str, ready: bool) -> dict[str, Any]:
    """Write server.json for the server `pid` at `url`, and return its content.

    ready: it has answered. Until then another process may hold its port, so nobody sends the secret there.
    """
    about = {"pid": pid, "created": created(pid), "boot": boot(), "url": url, "ui": url.removesuffix("/api")}
    about |= {"checkout": checkout, "ready": ready}
    write_json(_file(root), about)
    return about


def forget_record(root: Path) -> None:
    """Remove server.json."""
    _file(root).unlink(missing_ok=True)


def is_here(about: dict[str, Any], root: Path) -> bool:
    """Whether the recorded process is alive and works in this state folder, not in the one this is a copy of."""
    if about.get("created") is None or created(about["pid"]) != about["created"]:
        return False
    try:
        return _works_in(psutil.Process(about["pid"]), state_dir(root))
    except (psutil.Error, OSError):
        return False


def servers(root: Path) -> list[int]:
    """The pids of all servers of this state folder, whether recorded or not."""
    found, folder = [], state_dir(root)
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # it ended meanwhile, is a zombie, or belongs to another user
            command = process.cmdline()
            if command[3:4] == [MODULE] and _works_in(process, folder):  # python -P -m MODULE HOST PORT
                found.append(process.pid)
    return found


def age(about: dict[str, Any]) -> float:
    """Seconds since the recorded server was started."""
    with suppress(psutil.Error, OSError):
        if sys.platform == "linux":
            up = float(Path("/proc/uptime").read_text().split()[0])
            return up - int(about["created"].split()[-1]) / os.sysconf("SC_CLK_TCK")
        return time.time() - psutil.Process(about["pid"]).create_time()
    return 0.0


def stop(pid: int) -> None:
    """Stop the server `pid` and its children."""
    before = created(pid)
    with suppress(ProcessLookupError):  # it has just ended by itself
        os.killpg(pid, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while (now := created(pid)) is not None and now == before and time.monotonic() < deadline:
            time.sleep(0.1)
        if now is not None and now == before:
            os.killpg(pid, signal.SIGKILL)


def _works_in(process: psutil.Process, folder: Path) -> bool:
    return Path(process.cwd()).samefile(folder)


def _file(root: Path) -> Path:
    return state_dir(root) / "server.json"


def _accept(about: Any) -> dict[str, Any]:
    if expect(about["pid"], int) <= 1:
        raise ValueError(f"its pid is {about['pid']}")
    if not expect(about["url"], str).startswith("http"):
        raise ValueError("its url is not an address")
    return about
