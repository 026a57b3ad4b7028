"""The ledger of looks: every judgement of a challenger on the hard set and the test split.

    looks/<hash>.json in the release store    one look; the hash is that of challenger, sets and champion

It lies in the release store, so that all machines that share the store count together. The same challenger judged again
on the same images against the same champion is the same look. No image is named.
"""

import json
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Literal

from pydantic import AwareDatetime, ValidationError

from tasks.common.checks import Frozen
from tasks.common.errors import refuse_newer
from tasks.common.files import content_key
from tasks.releases.bundle_store import StoreDamaged
from tasks.storage.blobs import Conflict, Store

How = Literal["run", "approval", "preview"]
FOLDER = "looks/"
SCHEMA = 1


class SetLook(Frozen):
    """One set that was asked."""

    version: str  # "hard-..." or "test-...": a hash of its images
    images: int
    differ: float | None = None  # share of images on which only one of the two models was right; None: one model


class Look(Frozen):
    """One judgement."""

    at: AwareDatetime
    run: str
    by: str
    how: How = "run"
    challenger: str  # sha256 of its bundle's manifest
    champion: str | None  # version
    seq: int  # number of the newest batch or change in the data that was judged on
    sets: dict[str, SetLook]  # "hard", "test"

    def key(self) -> str:
        """Where it lies in the store."""
        versions = sorted((name, one.version) for name, one in self.sets.items())
        return f"{FOLDER}{content_key(self.challenger, self.champion, versions)[:32]}.json"


def record_look(store: Store, look: Look) -> bool:
    """Keep `look`, durably; False if it was there already."""
    content = json.dumps({"schema": SCHEMA, **look.model_dump(mode="json")}, sort_keys=True).encode()
    if store.read(look.key()) is not None:
        return False
    with suppress(Conflict):  # another process took the same look
        store.create(look.key(), content)
        return True
    return False


def read_looks(store: Store) -> list[Look]:
    """Every look, oldest first. Raises StoreDamaged for one that cannot be read."""
    found = []
    for key in store.list(FOLDER):
        if PurePosixPath(key).suffix != ".json" or (content := store.read(key)) is None:
            continue
        try:
            about = json.loads(content[0])
            refuse_newer(about.pop("schema"), SCHEMA, f"{key} in the release store")
            found.append(Look.model_validate(about))
        except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            raise StoreDamaged(
                f"{key} in the release store cannot be read ({error}): restore it from a backup"
            ) from None
    return sorted(found, key=lambda look: (look.at, look.key()))


def looks_at(looks: list[Look], name: str, since: int) -> list[Look]:
    """The looks at set `name` that may have seen images of today: `since` is the number of its oldest images' batch."""
    return [look for look in looks if name in look.sets and look.seq >= since]
