"""One process of `evergreen serve`: it answers on the socket that all workers share.

    python -m flows.predictor.worker DESCRIPTOR        (in the project's folder; flows.predictor.run starts it)

Each second it writes one line of JSON about itself to stdout. Its stdin ends when the process that started it died:
then it stops, as on SIGTERM. It stops without losing a request: it accepts no new connection, answers what comes on the
old ones and asks for their end, waits for what it computes, and writes what waits for the production log.
"""

import asyncio
import json
import logging
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import uvicorn

from flows.predictor.serve import Composed, compose
from serving.service.protocol import LimitedProtocol
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import project_root

BEAT_SECONDS = 1.0
LEAVE_SECONDS = 1.0  # in which busy clients hear that they should connect again, before idle connections are closed
DRAIN_SECONDS = 30  # for the requests that are being answered; longer than any deadline that makes sense
KEEP_ALIVE = 75  # seconds of an idle connection: longer than proxies keep theirs (60), so that they close first


class Server(uvicorn.Server):
    """uvicorn's server, which leaves its clients time to go to another worker."""

    composed: Composed
    leaving = False

    def handle_exit(self, number: int, frame: Any) -> None:
        """On the first signal begin to leave; on another one stop."""
        if self.leaving or not self.started:
            super().handle_exit(number, frame)
        else:
            self.leaving = True
            self.loop.call_soon_threadsafe(self.leave)

    def leave(self) -> None:
        """Accept no connection any more, then stop."""
        self.leaving = True
        self.composed.service.draining = True
        for listening in self.servers:
            listening.close()
        self.loop.call_later(LEAVE_SECONDS, self._stop)

    def _stop(self) -> None:
        self.should_exit = True


async def serve(composed: Composed, listening: socket.socket) -> None:
    """Answer until SIGTERM or the end of stdin, and tell stdout each second how it goes."""
    config = uvicorn.Config(
        composed.app,
        http=LimitedProtocol,
        log_config=None,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # else everybody could claim another address
        timeout_graceful_shutdown=DRAIN_SECONDS,
        timeout_keep_alive=KEEP_ALIVE,
    )
    server = Server(config)
    server.composed, server.loop = composed, asyncio.get_running_loop()
    server.loop.add_reader(sys.stdin.fileno(), _stdin_ended, server)
    beating = asyncio.create_task(_beat(server))
    try:
        await server.serve(sockets=[listening])
    finally:
        beating.cancel()


def about(composed: Composed, ready: bool) -> dict[str, Any]:
    """What a worker tells of itself."""
    state, (given, unseen) = composed.router.state, composed.recorder.stats
    return {
        "ready": ready,
        "models": {role: model.version for role, model in composed.router.models().items()},
        "pinned": state.pinned.version if state.pinned else None,
        "humans_only": state.humans_only,
        "problems": composed.router.problems,
        "waiting": composed.service.waiting,
        "not_logged": given.dropped + given.lost + given.failed + unseen.dropped + unseen.lost + unseen.failed,
        "memory": psutil.Process().memory_info().rss,
    }


async def _beat(server: Server) -> None:
    os.set_blocking(sys.stdout.fileno(), False)  # a supervisor that does not read must not stop answers
    while True:
        line = json.dumps(about(server.composed, server.composed.service.ready and not server.leaving)) + "\n"
        with suppress(BlockingIOError, BrokenPipeError):
            os.write(sys.stdout.fileno(), line.encode())
        await asyncio.sleep(BEAT_SECONDS)


def _stdin_ended(server: Server) -> None:
    """Whatever comes on stdin is its end."""
    server.loop.remove_reader(sys.stdin.fileno())
    if server.started:
        server.leave()
    else:
        server.should_exit = True


def run(root: Path, listening: socket.socket) -> None:
    """Load the models, then answer."""
    composed = compose(root, load_params(root / "params.yaml"))
    composed.router.start()
    loop = uvicorn.Config(composed.app).get_loop_factory()
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(serve(composed, listening))
    composed.router.close()
    composed.recorder.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s", stream=sys.stderr)
    try:
        run(project_root(), socket.socket(fileno=int(sys.argv[1])))
    except EvergreenError as error:
        sys.exit(f"error: {error}")
