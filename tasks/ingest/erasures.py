"""The erasure ledger: which images were erased on request, and what was removed with them.

forgotten.json of a project:

    {"images": {<sha256 of the id>: <erasure>}, "erasures": {<erasure>: {...}}, "objects": {<md5>: <erasure>}}

The ledger holds neither bytes nor ids of images. It stores a second hash of each id: that recognises the same bytes
when they are offered again, and tells nothing about an image to anyone who does not have it. The ledger is committed
next to tombstones.json, so that a rollback of the data does not roll it back. Erasures are named by their time.
"""

from pathlib import Path
from typing import Any

from tasks.common.files import read_json, sha256_bytes

FILE = "forgotten.json"


def hashed_id(image: str) -> str:
    """The ledger's key of the image with id `image`."""
    return sha256_bytes(f"evergreen forgot {image}".encode())


def read_ledger(root: Path) -> dict[str, Any]:
    """The ledger; an empty one where nothing was ever erased."""
    file = root / FILE
    return read_json(file) if file.is_file() else {"images": {}, "erasures": {}, "objects": {}}


def why_erased(ledger: dict[str, Any], image: str) -> str | None:
    """Why the image with id `image` must not be taken again; None if it was not erased."""
    if not ledger["images"] or (erasure := ledger["images"].get(hashed_id(image))) is None:
        return None
    about = ledger["erasures"][erasure]
    return f"erased on {about['at']} by {about['by']}: {about['why']}"


def erased_objects(root: Path) -> set[str]:
    """md5 of every DVC object that was removed because it held an erased image: missing on purpose."""
    return set(read_ledger(root)["objects"])
