"""A job's page: what it is, what it printed, how it ended."""

from fastapi import APIRouter, HTTPException, Request
from fastapi.responses import Response

from flows.console.jobs.store import log_end, read_job
from flows.console.shell.console import console_of
from flows.console.shell.page import page
from flows.console.shell.posted import local

router = APIRouter()


@router.get("/jobs/{id_}")
def job(request: Request, id_: str) -> Response:
    """The job's page."""
    found = read_job(console_of(request).root, id_)
    if found is None:
        raise HTTPException(404, "There is no such job: it is older than a week, or never was.")
    log = log_end(console_of(request).root, id_)
    return page(request, "shell/job.html", title=found.title, section="", found=found, back=local(found.back), log=log)
