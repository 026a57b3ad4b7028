"""The web server of a project: its console and its webhook under one address.

python -m flows.console.web PORT [EVIDENTLY_PORT]        (in the project's folder; `evergreen up` does it)
"""

import sys
import threading
from pathlib import Path

from fastapi import FastAPI

from flows.console.app import create_app
from flows.console.images.pictures import prune_thumbs
from flows.console.index.index import index_of
from flows.console.labelling.state import labelling_in
from flows.console.shell.console import Console
from flows.server.environment import check_password, has_people
from tasks.common.params import load_params
from tasks.common.paths import project_root

PRUNE_SECONDS = 3600
STOP_SECONDS = 2  # for requests under way: streams of live events have no end


def main(port: int, evidently_port: int | None = None) -> None:
    """Serve until SIGTERM. Raises EvergreenError if it should listen beyond loopback where nobody could sign in."""
    import uvicorn

    root = project_root()
    serve = load_params(root / "params.yaml").serve
    check_password(serve, has_people(root))
    app = create_app(root, evidently_port)
    stopping = app.state.console.stopping
    for thread in background(app):
        thread.start()

    class Server(uvicorn.Server):
        def handle_exit(self, *about) -> None:
            stopping.set()
            super().handle_exit(*about)

    config = uvicorn.Config(
        app,
        host=serve.host,
        port=port,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # else everybody on this machine could claim another address
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    Server(config).run()


def background(app: FastAPI) -> list[threading.Thread]:
    """Threads that work next to the requests: they keep the index fresh, read the queues, delete old thumbnails."""
    console: Console = app.state.console
    works = {
        "index": (index_of(console.root).keep_fresh, [console.stopping]),
        "queues": (labelling_in(app).warm, []),
        "thumbnails": (_prune, [console.root, console.stopping]),
    }
    return [threading.Thread(target=work, args=about, daemon=True, name=name) for name, (work, about) in works.items()]


def _prune(root: Path, stop: threading.Event) -> None:
    """Keep the folder of thumbnails small: now and every hour."""
    prune_thumbs(root)
    while not stop.wait(PRUNE_SECONDS):
        prune_thumbs(root)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
