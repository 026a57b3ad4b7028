"""The style, scripts and icon of the pages, from this server only."""

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, Response

from flows.console.shell.page import FOLDER

KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

router = APIRouter()


@router.get("/static/{file}")
def static(file: str) -> Response:
    """A file of the folder static/; its address names its content, so browsers may keep it."""
    known = {found.name: found for found in (FOLDER / "static").iterdir() if found.suffix in KINDS}
    if file not in known:
        raise HTTPException(404, "There is no such file.")
    headers = {"Cache-Control": "private, max-age=31536000, immutable"}
    return FileResponse(known[file], media_type=KINDS[known[file].suffix], headers=headers)
