"""What a rollback to a version changes: batches, images, labels, and whether its files are there."""

from dataclasses import dataclass, field

from flows.console.shell.console import Console
from flows.console.shell.facts import recent
from flows.publishing import registry
from flows.publishing.history import known_history
from flows.publishing.rollback import newer_batches
from flows.repo.objects import open_objects
from tasks.common.errors import EvergreenError
from tasks.common.paths import main_checkout
from tasks.dataset.shards import BatchManifest
from tasks.releases.pointer import Pointer

SECONDS = 60.0  # what lies between two commits does not change


@dataclass(frozen=True)
class Undo:
    """A rollback from `live` to `target`."""

    target: Pointer
    live: Pointer
    newer: list[BatchManifest] = field(default_factory=list)  # batches of `live` that `target` was made without
    tombstoned: frozenset[str] = frozenset()
    problem: str = ""  # why its data cannot be told: then the model alone can go back
    retired: str = ""

    @property
    def older(self) -> bool:
        return self.target.seq < self.live.seq

    @property
    def images(self) -> int:
        return sum(batch.rows for batch in self.newer)


def undo_of(console: Console, version: str) -> Undo:
    """The rollback to `version`. Raises LookupError if it was never live."""
    releases, main = console.releases(), main_checkout(console.root)
    history = known_history(console.root, releases)
    found = [one for one in history if one.version == version]
    if not found:
        raise LookupError(version)
    target, live = found[-1], history[-1]
    retired = releases.retired().get(version)
    said = f"retired by {retired['by']}: {retired['why']}" if retired else ""
    stones = frozenset(releases.tombstones())

    def look() -> tuple[list[BatchManifest], str]:
        for pointer in (target, live):
            if not registry.has_commit(main, pointer.git_rev):
                return [], f"this repository lacks commit {pointer.git_rev[:12]} of {pointer.version}"
        try:
            with open_objects(main) as objects:
                return newer_batches(main, objects, target, live), ""
        except EvergreenError as error:
            return [], str(error)

    newer, problem = recent(("undo", main, target.git_rev, live.git_rev), look, SECONDS)
    return Undo(target, live, newer, stones, problem, said)
