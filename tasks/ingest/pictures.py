"""Small pictures of refused images whose bytes are fine, for a person to look at.

Children with bounded memory decode them and write them again as PNG (tasks.inspection.sandbox): what a browser gets
later was never a stranger's file. Images that cannot be decoded, and those that were erased on request, get none.
"""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from tasks.dataset.decode import Undecodable, decode
from tasks.ingest.found import Refused
from tasks.inspection.measure import LEAST_MEMORY, MEMORY_PER_PIXEL
from tasks.inspection.sandbox import Crashed, sandboxed_map
from tasks.sources.fields import Unusable
from tasks.sources.source import Source

MOST = 48  # pictures of one ingest
SIDE = 128  # pixels
SHOWN = (  # reasons for which the image itself is fine
    "too_small",
    "bad_label",
    "unknown_label",
    "bad_path",
    "bad_split",
    "bad_time",
    "bridges_splits",
    "in_hard_set",
)


def refused_pictures(source: Source, refused: Sequence[Refused], max_pixels: int) -> dict[int, bytes]:
    """Place in `refused` -> a PNG of at most SIDE x SIDE pixels, of the first MOST images that can be shown."""
    wanted = {one.number: place for place, one in enumerate(refused) if one.reason in SHOWN}
    wanted = dict(islice(sorted(wanted.items()), MOST))
    if not wanted:
        return {}
    read: list[int] = []

    def images() -> Iterator[bytes]:
        for number, row in enumerate(islice(source.rows(), max(wanted) + 1)):
            if number in wanted:
                try:
                    content = row.read()
                except Unusable:
                    continue
                read.append(wanted[number])
                yield content

    memory = max(LEAST_MEMORY, MEMORY_PER_PIXEL * max_pixels)
    made = sandboxed_map(_Picture(max_pixels), images(), workers=1, memory=memory)
    found = list(made)
    return {place: png for place, png in zip(read, found, strict=True) if png and not isinstance(png, Crashed)}


@dataclass(frozen=True)
class _Picture:
    """The function that a child process runs: an encoded image -> a small PNG, b"" if it cannot be decoded."""

    max_pixels: int

    def __call__(self, data: bytes) -> bytes:
        try:
            image = decode(data, self.max_pixels)
        except Undecodable:
            return b""
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return buffer.getvalue()
