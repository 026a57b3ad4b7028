"""Who else uses the objects of one DVC cache or remote: what `evergreen forget` may delete there."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from flows.repo.ledger import BesideObjects, is_private
from flows.repo.odb import list_oids
from tasks.common.owner import owner_of
from tasks.storage.ledgers import read_ledgers

UNKNOWN = "a user without a ledger (plain DVC or an older Evergreen)"


@dataclass(frozen=True)
class Sharing:
    """One place. `own`: what this checkout references or has stored there; `others`: (names, who) of each other one."""

    place: str
    own: frozenset[str]
    others: tuple[tuple[frozenset[str], str], ...]
    unknown: bool  # do objects lie there that no ledger names, in a place outside of the project?
    private: bool  # does the place lie inside of the project?

    def users(self, oid: str) -> list[str]:
        """Everyone else who needs object `oid`, or may need it."""
        named = [who for names, who in self.others if oid in names]
        return named or ([UNKNOWN] if self.unknown else [])

    def is_ours(self, oid: str) -> bool:
        """Does the object belong to this checkout, alone or with others?"""
        return oid in self.own or (self.private and not self.users(oid))


def sharing(root: Path, odb, needed: Collection[str]) -> Sharing:
    """Read the ledgers of `odb`; `needed`: objects of this project's versions, which older ones did not claim."""
    files, me = BesideObjects(odb), owner_of(root).id
    ledgers = read_ledgers(files)
    own = frozenset(needed) | (ledgers.pop(me).names if me in ledgers else set())
    others = tuple((frozenset(ledger.names), str(ledger.owner)) for ledger in ledgers.values())
    private = is_private(files, root)
    unknown = not private and bool(_without_ledger(list_oids(odb), own, others))
    return Sharing(files.place, own, others, unknown, private)


def _without_ledger(oids: Iterable[str], own: frozenset[str], others) -> set[str]:
    return set(oids) - own - frozenset().union(*(names for names, _ in others))
