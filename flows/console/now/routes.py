"""The first page: what waits for a person, what is live, what runs."""

from fastapi import APIRouter, Request
from fastapi.responses import Response

from flows.console.shell.page import page

router = APIRouter()


@router.get("/")
def now(request: Request) -> Response:
    """The page."""
    return page(request, "now/now.html", title="Now", section="/")
