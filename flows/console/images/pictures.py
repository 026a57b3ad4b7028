"""Bytes of images for the browser: the file itself, and thumbnails cached on disk.

    .evergreen/console/thumbs/<side>/<2 digits>/<id>.webp   made by our own decoder; deleted at will

An image is named by the hash of its bytes, so a thumbnail never goes stale.
"""

import functools
import io
import re
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from flows.console.index.index import ImageRow, Index, index_of
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.params import Params, load_params
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.dataset.decode import Undecodable, decode, open_image
from tasks.dataset.shards import iter_bytes

ID = re.compile(r"[0-9a-f]{64}")
SIDES = (160, 480)  # pixels of a thumbnail's longer side
TYPES = {"JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp", "GIF": "image/gif"}
LARGEST = 2 * 10**9  # bytes of all thumbnails
DECODERS = 2  # images decoded at once: each may take hundreds of megabytes


@dataclass(frozen=True)
class Picture:
    """An image as a browser shows it."""

    content: bytes
    media_type: str
    whole: bool = True  # False: the log holds only a small copy of it


class Pictures:
    """Reads images of data/ and of the production log; threads may share one."""

    def __init__(self, root: Path, index: Index):
        self._root, self._index = root, index
        self._slots = threading.BoundedSemaphore(DECODERS)
        self._known: tuple[int, Params] | None = None

    def encoded(self, image: str) -> tuple[bytes, bool] | None:
        """(encoded bytes, whether they are the image itself and not a small copy); None: it is not stored any more."""
        small = None
        for row in self._index.of_id(image):
            found = self._from_log(row) if row.logged else self._from_data(row)
            if found is not None and found[1]:
                return found
            small = small or found
        return small

    def thumbnail(self, image: str, side: int = SIDES[0]) -> bytes | None:
        """The image as WebP, its longer side at most `side`; None if it is gone or cannot be decoded."""
        file = thumbs_folder(self._root) / str(side) / image[:2] / f"{image}.webp"
        try:
            return file.read_bytes()
        except FileNotFoundError:
            pass
        found = self.encoded(image)
        if found is None:
            return None
        with self._slots:
            try:
                picture = decode(found[0], self._params().images.max_pixels)
            except Undecodable:
                return None
            picture.thumbnail((side, side), reducing_gap=3.0)
            content = _webp(picture)
        make_folder(file.parent)
        with atomic_path(file) as temporary:
            temporary.write_bytes(content)
        return content

    def whole(self, image: str) -> Picture | None:
        """The image's own bytes where browsers show the format, else the same pixels as PNG; None as `thumbnail`."""
        found = self.encoded(image)
        if found is None:
            return None
        content, whole = found
        try:
            kind = str(open_image(content, self._params().images.max_pixels).format)
            if kind in TYPES:
                return Picture(content, TYPES[kind], whole)
            with self._slots:
                buffer = io.BytesIO()
                decode(content, self._params().images.max_pixels).save(buffer, "PNG")
        except Undecodable:
            return None
        return Picture(buffer.getvalue(), "image/png", whole)

    def _from_data(self, row: ImageRow) -> tuple[bytes, bool] | None:
        try:
            return next((content, True) for _, content in iter_bytes(self._root / "data" / row.file, [row.place]))
        except (EvergreenError, OSError, pa.ArrowException, StopIteration):  # damaged, or replaced since it was indexed
            return None

    def _from_log(self, row: ImageRow) -> tuple[bytes, bool] | None:
        table = open_log(self._root, self._params()).at_places(row.file, [row.place], ["id", "image", "thumbnail"])
        if table is None or not len(table) or table["id"][0].as_py() != row.id:
            return None
        image, thumbnail = table["image"][0].as_py(), table["thumbnail"][0].as_py()
        return (image, True) if image else (thumbnail, False) if thumbnail else None

    def _params(self) -> Params:
        """params.yaml, read again when it changes."""
        stamp = (self._root / "params.yaml").stat().st_mtime_ns
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, load_params(self._root / "params.yaml"))
        return self._known[1]


def thumbs_folder(root: Path) -> Path:
    """Where thumbnails lie."""
    return state_dir(root) / "console" / "thumbs"


def prune_thumbs(root: Path, most: int = LARGEST) -> int:
    """Delete the oldest thumbnails until those left take at most `most` bytes; how many were deleted."""
    found = []
    for file in thumbs_folder(root).glob("*/*/*.webp"):
        with suppress(OSError):
            status = file.stat()
            found.append((status.st_mtime_ns, status.st_size, file))
    total, gone = sum(size for _, size, _ in found), 0
    for _, size, file in sorted(found):
        if total <= most:
            break
        file.unlink(missing_ok=True)
        total, gone = total - size, gone + 1
    return gone


@functools.cache
def pictures_of(root: Path) -> Pictures:
    """The pictures of the project at `root`; every request shares it, so that few images are decoded at once."""
    return Pictures(root, index_of(root))


def _webp(picture) -> bytes:
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, "WEBP", quality=82)
    return buffer.getvalue()
