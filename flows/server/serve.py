"""The process of the project's Prefect server: Prefect's app behind the guard.

python -m flows.server.serve HOST PORT        (flows.server.process starts it and sets its environment)
"""

import os
import sys
from pathlib import Path

PASSWORD = "EVERGREEN_SERVER_PASSWORD"  # what people may sign in with, beside the secret
PROJECT = "EVERGREEN_SERVER_PROJECT"  # folder of the project
NAMES = "EVERGREEN_SERVER_NAMES"  # host names of this server, separated by commas


def main(host: str, port: int) -> None:
    """Serve until SIGTERM."""
    import uvicorn
    from prefect.server.api.server import create_app
    from prefect.settings import get_current_settings

    from flows.server import template
    from flows.server.guard import Guard
    from tasks.common.access import Access

    settings = get_current_settings()
    server = settings.server
    auth = server.api.auth_string
    if auth is None:
        raise SystemExit("PREFECT_SERVER_API_AUTH_STRING is not set: this server never runs without a secret")
    names = tuple(filter(None, os.environ.get(NAMES, "").split(",")))
    template.prepare(Path(settings.home))
    access = Access(auth.get_secret_value(), host, names, os.environ.get(PASSWORD) or None)
    uvicorn.run(
        Guard(create_app(final=True), access, Path(os.environ[PROJECT])),
        host=host,
        port=port,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        timeout_graceful_shutdown=3,  # an open page would keep the server from ending
        log_level=server.logging_level.lower(),
        server_header=False,
        proxy_headers=False,  # else everybody on this machine could claim another address
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
