"""The erasure ledger: forgotten.json of a project, which images were erased on request and what that took with it.

    {"images": {<sha256 of the id>: <erasure>}, "erasures": {<erasure>: {...}}, "objects": {<md5>: <erasure>}}

It holds neither bytes nor ids of images: an id is hashed once more, which is enough to know the same bytes when they
are offered again and tells nothing about an image one does not have. It is committed beside tombstones.json, so that
a rollback of the data does not roll it back. Erasures are named by their time.
"""

from pathlib import Path
from typing import Any

from tasks.common.files import read_json, sha256_bytes

FILE = "forgotten.json"


def hashed(image: str) -> str:
    """What the ledger knows an image by; `image` is its id."""
    return sha256_bytes(f"evergreen forgot {image}".encode())


def read(root: Path) -> dict[str, Any]:
    """The ledger; an empty one where nothing was ever erased."""
    file = root / FILE
    return read_json(file) if file.is_file() else {"images": {}, "erasures": {}, "objects": {}}


def refusal(ledger: dict[str, Any], image: str) -> str | None:
    """Why the image with id `image` must not be taken again; None: nothing was erased of it."""
    if not ledger["images"] or (erasure := ledger["images"].get(hashed(image))) is None:
        return None
    about = ledger["erasures"][erasure]
    return f"erased on {about['at']} by {about['by']}: {about['why']}"


def erased_objects(root: Path) -> set[str]:
    """md5 of every DVC object that was removed because it held an erased image: missing on purpose."""
    return set(read(root)["objects"])
