"""The console's ASGI app: every section's pages behind one guard.

app = create_app(root)      # `evergreen up` serves it (flows.console.web)
"""

import hmac
import sqlite3
import threading
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import JSONResponse, Response

from flows.console.archive import routes as archive
from flows.console.data import routes as data
from flows.console.data import upload_routes as upload
from flows.console.hard import routes as hard
from flows.console.images import action_routes as image_actions
from flows.console.images import routes as images
from flows.console.images import taught_routes
from flows.console.jobs import routes as jobs
from flows.console.labelling import feedback as label_feedback
from flows.console.labelling import routes as labelling
from flows.console.now import routes as now
from flows.console.people import routes as people
from flows.console.people import sign_in_routes
from flows.console.production import action_routes as production_actions
from flows.console.production import error_routes
from flows.console.production import routes as production
from flows.console.releases import mistake_routes
from flows.console.releases import routes as releases
from flows.console.runs import experiment_routes as experiments
from flows.console.runs import routes as runs
from flows.console.services import routes as services
from flows.console.shell import guard, live, static
from flows.console.shell.console import Console
from flows.console.shell.page import message
from flows.console.shell.posted import back, local
from flows.services import webhook
from tasks.common.access import access_of
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.machine_limits import machine_error
from tasks.common.params import load_params
from tasks.common.throttle import Throttle

ROUTERS = [
    now.router,
    jobs.router,
    runs.router,
    experiments.router,
    releases.router,
    mistake_routes.router,
    upload.router,  # before the page of a batch, whose address would fit, too
    data.router,
    error_routes.router,  # before the page of a window, whose address would fit, too
    hard.router,
    production.router,
    production_actions.router,
    label_feedback.router,  # before the page of a queue, whose address would fit, too
    labelling.router,
    archive.router,
    images.router,
    image_actions.router,
    taught_routes.router,
    static.router,
    live.router,
    sign_in_routes.router,
    people.router,
    services.router,
]
AT_ONCE = 2  # passphrases that are compared at the same time
TITLES = {401: "Sign in first", 403: "You may not do this", 404: "Not found", 405: "Not possible here"}


def create_app(root: Path, evidently_port: int | None = None) -> FastAPI:
    """The app of the project at `root`. evidently_port: of a running Evidently UI on this machine."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    access = access_of(root, load_params(root / "params.yaml").serve)
    key = hmac.digest(checkout(root).secret.encode(), b"forms at the console", "sha256")  # open pages outlive a restart
    app.state.console = Console(root, access, key, evidently_port)
    app.state.throttle, app.state.comparing = Throttle(), threading.BoundedSemaphore(AT_ONCE)
    app.state.new_links = {}  # of people who were added, by the admin who sees them once
    for router in ROUTERS:
        app.include_router(router)
    app.include_router(webhook.router(root))

    @app.get("/health")
    def health() -> dict:
        return {"status": "ok"}

    app.add_middleware(GZipMiddleware, minimum_size=800, compresslevel=5)

    app.add_middleware(guard.Guard)

    @app.exception_handler(EvergreenError)
    def refused(request: Request, error: EvergreenError) -> Response:
        """What a person asked for is not possible: say it on the page that they came from."""
        if not hasattr(request.state, "person"):  # strangers learn nothing of the project
            return JSONResponse({"detail": "this is not possible now"}, 409)
        form = getattr(request.state, "form", None)
        to = form.all("back")[0] if form and form.all("back") else ""
        if to and local(to) == to:
            return back(request, to, str(error), good=False)
        return message(request, "This is not possible", str(error), 409)

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.Error)
    def lacking(request: Request, error: Exception) -> Response:
        """The machine lacks something, room on the disk for example. Others are mistakes of ours, and end as such."""
        if (said := machine_error(error)) is None:
            raise error
        if not hasattr(request.state, "person"):
            return JSONResponse({"detail": "this is not possible now"}, 507)
        return message(request, "This machine cannot do it now", said, 507)

    @app.exception_handler(HTTPException)
    @app.exception_handler(404)
    @app.exception_handler(405)
    def failed(request: Request, error: Exception) -> Response:
        status, detail = getattr(error, "status_code", 500), str(getattr(error, "detail", ""))
        if not hasattr(request.state, "person"):  # nobody is signed in: a webhook
            return JSONResponse({"detail": detail}, status, getattr(error, "headers", None))
        if detail in ("", "Not Found"):
            detail = "There is no such page."
        return message(request, TITLES.get(status, f"Error {status}"), detail, status)

    @app.exception_handler(RequestValidationError)
    def malformed(request: Request, error: RequestValidationError) -> Response:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:5])
        return message(request, "This address is wrong", wrong, 400)

    return app
