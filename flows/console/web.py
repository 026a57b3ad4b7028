"""The web server of a project: its console and its webhook under one address.

python -m flows.console.web PORT [EVIDENTLY_PORT]        (in the project's folder; `evergreen up` does it)
"""

import sys
import threading
from pathlib import Path

from flows.console.app import create_app
from flows.console.images.pictures import prune_thumbs
from flows.console.index.index import index_of
from flows.console.labelling.state import labelling_in
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
    threading.Thread(target=index_of(root).keep_fresh, args=[stopping], daemon=True, name="index").start()
    threading.Thread(target=labelling_in(app).warm, daemon=True, name="queues").start()
    threading.Thread(target=_prune, args=[root, stopping], daemon=True, name="thumbnails").start()

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


def _prune(root: Path, stop: threading.Event) -> None:
    """Keep the folder of thumbnails small."""
    while not stop.wait(PRUNE_SECONDS):
        prune_thumbs(root)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
