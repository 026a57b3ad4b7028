"""What taught the model its mistake about an image, and which mistakes an image taught."""

import functools
from pathlib import Path

from fastapi import APIRouter, Request
from fastapi.responses import Response

from flows.console.images.named import found_rows
from flows.console.shell.console import console_of
from flows.console.shell.page import page
from flows.labels.mistakes import found as kept
from flows.labels.mistakes.found import Fix, Found, Mistake
from monitoring.review.asked import label_text
from tasks.common.paths import state_dir

router = APIRouter()


@router.get("/images/{image}/taught")
def taught(request: Request, image: str) -> Response:
    """The training images behind the mistake about this image, and the mistakes behind which this image is."""
    console = console_of(request)
    found_rows(console, image)
    found = newest_of(console.root)
    mine = next((one for one in found.mistakes if one.id == image), None) if found else None
    return page(
        request, "images/taught.html", title="What taught it", section="/images", id=image, found=found, mistake=mine,
        pupils=pupils(found, image), fix=fix_of(found, image), text=label_text,
    )  # fmt: skip


def pupils(found: Found | None, image: str) -> list[Mistake]:
    """The mistakes that this training image taught."""
    mistakes = found.mistakes if found else []
    return [one for one in mistakes if any(teacher.id == image for teacher in one.taught)]


def fix_of(found: Found | None, image: str) -> Fix | None:
    """The suggestion about this training image."""
    return next((fix for fix in found.fixes if fix.id == image), None) if found else None


def newest_of(root: Path) -> Found | None:
    """The newest mistakes that were looked for, read once for each file."""
    files = sorted((state_dir(root) / kept.FOLDER).glob("*.json"))
    return _read(root, files[-1].stem, files[-1].stat().st_mtime_ns) if files else None


@functools.lru_cache(maxsize=4)
def _read(root: Path, run: str, _written: int) -> Found | None:
    return kept.read(root, run)
