"""The web server of a project: its pages and its webhook under one address.

    python -m flows.services.web PORT [EVIDENTLY_PORT]        (in the project's folder; `evergreen up` does it)

The sign-in of the pages does not protect the webhook: its messages are accepted by their signature.
"""

import sys
import tempfile
from pathlib import Path

from fastapi import FastAPI

from flows.production.queue_export import export_queue
from flows.server.environment import check_password
from flows.server.events import request_retrain
from flows.services.webhook import router
from monitoring.pages.site import Actions, create_app, site_of
from tasks.common.params import load_params
from tasks.common.paths import project_root


def buttons(root: Path) -> Actions:
    """Map the actions that people can start from the pages to functions."""

    def retrain() -> str:
        request_retrain(root, "person", "the button on the report pages")
        return "Requested: a retraining starts within seconds, or after the current one. Prefect shows it."

    return {"retrain": ("Retrain now", retrain)}


def review_page(root: Path) -> str:
    """Render the images that wait for a label now, as HTML."""
    with tempfile.TemporaryDirectory(prefix="evergreen-") as folder:
        page = Path(folder) / "queue.html"
        export_queue(root, html=page, home="/")
        return page.read_text(encoding="utf-8")


def app(root: Path, evidently_port: int | None = None) -> FastAPI:
    """Make the app: the webhook, and the pages at every other path."""
    site = site_of(root, evidently_port=evidently_port, actions=buttons(root), review=lambda: review_page(root))
    made = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    made.include_router(router(root))
    made.mount("/", create_app(site))
    return made


def main(port: int, evidently_port: int | None = None) -> None:
    """Serve until SIGTERM. Raises EvergreenError if it should listen beyond loopback without a password."""
    import uvicorn

    root = project_root()
    serve = load_params(root / "params.yaml").serve
    check_password(serve)
    uvicorn.run(app(root, evidently_port), host=serve.host, port=port, log_level="warning", server_header=False)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
