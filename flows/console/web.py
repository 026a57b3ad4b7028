"""The web server of a project: its console and its webhook under one address.

python -m flows.console.web PORT [EVIDENTLY_PORT]        (in the project's folder; `evergreen up` does it)
"""

import sys
import threading

from flows.console.app import create_app
from flows.console.index.index import index_of
from flows.server.environment import check_password, has_people
from tasks.common.params import load_params
from tasks.common.paths import project_root

STOP_SECONDS = 2  # for requests under way: streams of live events have no end


def main(port: int, evidently_port: int | None = None) -> None:
    """Serve until SIGTERM. Raises EvergreenError if it should listen beyond loopback where nobody could sign in."""
    import uvicorn

    root = project_root()
    serve = load_params(root / "params.yaml").serve
    check_password(serve, has_people(root))
    stop = threading.Event()
    threading.Thread(target=index_of(root).keep_fresh, args=[stop], daemon=True, name="index").start()
    uvicorn.run(
        create_app(root, evidently_port),
        host=serve.host,
        port=port,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # else everybody on this machine could claim another address
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    stop.set()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
