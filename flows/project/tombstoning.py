"""Keep a batch out of training, and allow it again: what `evergreen tombstone` and the console do."""

from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.dataset.shards import known_batches, read_tombstones
from tasks.releases.store import Releases, open_store


def tombstone_batch(root: Path, batch: str, why: str, by: str) -> str:
    """Never train on `batch` again; returns one sentence. Raises EvergreenError for an unknown batch."""
    releases = _store_with(root, batch)
    _needs_reason(why)
    releases.tombstone(batch, why=why.strip(), by=by)
    return f"{batch} is tombstoned"


def lift_tombstone(root: Path, batch: str, why: str, by: str) -> str:
    """Allow `batch` again and keep who had tombstoned it and who lifted that; returns one sentence.

    Raises EvergreenError for a batch that is not tombstoned, or whose tombstone is committed to git.
    """
    releases = _store_with(root, batch)
    _needs_reason(why)
    if batch in read_tombstones(root):
        raise EvergreenError(
            f"the tombstone of {batch} is committed: delete its entry in {root / 'tombstones.json'} and commit that"
        )
    if batch not in releases.tombstones():
        raise EvergreenError(f"{batch} is not tombstoned: there is nothing to take back")
    releases.untombstone(batch, why=why.strip(), by=by)
    return f"{batch} is allowed again"


def _store_with(root: Path, batch: str) -> Releases:
    """The release store of `root`. Raises EvergreenError if neither it nor data/ knows `batch`."""
    releases = open_store(load_params(root / "params.yaml").store, root)
    known = known_batches(root / "data") | set(releases.tombstones())
    if batch not in known:
        raise EvergreenError(f"no batch {batch!r} in {root / 'data'}; known: {', '.join(sorted(known)) or 'none'}")
    return releases


def _needs_reason(why: str) -> None:
    if not why.strip():
        raise EvergreenError("a reason is missing: say why, for the people who read this later")
