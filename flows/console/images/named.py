"""The image that an address names."""

from fastapi import HTTPException

from flows.console.images.pictures import ID
from flows.console.index.index import ImageRow, Index, index_of
from flows.console.shell.console import Console


def fresh_index(console: Console) -> Index:
    """The index of images, with what came a moment ago."""
    return index_of(console.root).ready()


def found_rows(console: Console, image: str) -> list[ImageRow]:
    """The rows of an image. Raises HTTPException 404."""
    rows = fresh_index(console).of_id(image) if ID.fullmatch(image) else []
    if not rows:
        raise HTTPException(404, "No image with this id is in the data set or the production log, or it was erased.")
    return rows
