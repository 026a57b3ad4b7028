"""Tell open pages what has changed: server-sent events, one per change.

    data: {"runs": 17, "jobs": 3, ...}     a number per topic, which changes when something of that topic does

The script of the pages reloads the elements whose `data-live` names a topic that changed. Where no stream gets through
it asks `/live?once` every few seconds.
"""

import asyncio
import json
import threading
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from flows.console.shell.console import console_of
from flows.console.shell.facts import recent
from tasks.common.paths import state_dir

SECONDS = 1.0  # between looks
BEAT = 15  # looks after which a silent stream sends a comment, so that proxies keep it
LOOKS = 300  # of one stream: the browser opens another one by itself, if the person may still look
TOPICS = {  # topic -> what to look at in the state folder
    "jobs": ("jobs/*.json",),
    "runs": (
        "runs",
        "runs/*/*.json",
        "runs/*/log.txt",
        "unfinished",
        "trigger/*.json",
        "seen",
        "died",
        "stage_seconds.json",
    ),
    "production": ("monitor.json", "reports/index.json", "reports/live_accuracy.json", "alarms.json"),
    "labels": ("labels/*", "production/queue", "production/labels", "label-issues"),
    "releases": ("releases/champion.json", "releases/runs", "releases/tombstones.json"),
    "data": ("../data.dvc", "quarantine", "validation", "uploads", "releases/tombstones.json"),
    "services": ("services.json", "serving.json"),
}

router = APIRouter()


def stamps(state: Path) -> dict[str, int]:
    """A number per topic that differs when a file of it does."""
    return {topic: _stamp(state, patterns) for topic, patterns in TOPICS.items()}


def _stamp(state: Path, patterns: tuple[str, ...]) -> int:
    found = []
    for pattern in patterns:
        for file in state.glob(pattern) if "*" in pattern else [state / pattern]:
            try:
                status = file.stat()
            except OSError:  # not there, or just gone
                continue
            found.append(f"{file.name} {status.st_mtime_ns} {status.st_size}")
    return zlib.crc32("\n".join(sorted(found)).encode("utf-8", "surrogateescape"))


@router.get("/live")
async def live(request: Request) -> Response:
    """A stream of stamps; with `?once` the stamps of now."""
    console = console_of(request)
    state = state_dir(console.root)

    def look() -> dict[str, int]:
        return recent(("live", state), lambda: stamps(state), SECONDS / 2)

    if "once" in request.query_params:
        return JSONResponse(await asyncio.to_thread(look))
    return StreamingResponse(
        _stream(look, console.stopping), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
    )


async def _stream(look: Callable[[], dict[str, int]], stopping: threading.Event) -> AsyncIterator[str]:
    known, silent = None, 0
    for _ in range(LOOKS):
        if stopping.is_set():
            return
        found = await asyncio.to_thread(look)
        silent += 1
        if found != known:
            known, silent = found, 0
            yield f"data: {json.dumps(found)}\n\n"
        elif silent >= BEAT:
            silent = 0
            yield ": still here\n\n"
        await asyncio.sleep(SECONDS)
