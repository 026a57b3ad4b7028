"""One image of a queue, and how likely the model finds each class for it."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from flows.labels.queues import Entry
from monitoring.log.production_log import Log
from tasks.common.errors import EvergreenError
from tasks.dataset.shards import iter_bytes
from tasks.labels.taxonomy import Taxonomy
from tasks.releases.bundle import read
from tasks.releases.store import Releases, cached_bundle

MOMENT = timedelta(microseconds=1)

logger = logging.getLogger("evergreen.labels")


def read_image(root: Path, log: Log, entry: Entry) -> bytes | None:
    """The encoded image; its thumbnail if the log has only that, None if neither is there any more."""
    place = entry.place
    if place.shard:
        return next((content for _, content in iter_bytes(root / "data" / place.shard, [place.row])), None)
    if place.at is None:
        return None
    found = log.find([entry.id], place.at, place.at + MOMENT, ["id", "image", "thumbnail"]).to_pylist()
    return (found[0]["image"] or found[0]["thumbnail"]) if found else None


@dataclass
class Likelihoods:
    """Probabilities of production samples, with the class order of the model that gave them."""

    root: Path
    releases: Releases
    _classes: dict[str, Sequence[str]] = field(default_factory=dict)  # digest of a bundle -> its classes

    def of(self, log: Log, entry: Entry, taxonomy: Taxonomy) -> dict[str, float]:
        """Class, as it is called today, -> its probability; {} where they are not known."""
        at = entry.place.at
        if at is None:
            return {}
        rows = log.find([entry.id], at, at + MOMENT, ["id", "bundle", "probabilities"]).to_pylist()
        if not rows or not rows[0]["probabilities"] or not rows[0]["bundle"]:
            return {}
        found: dict[str, float] = {}
        for name, value in zip(self._of_bundle(rows[0]["bundle"]), rows[0]["probabilities"], strict=False):
            now = taxonomy.rename(name)
            found[now] = found.get(now, 0.0) + value
        return found

    def _of_bundle(self, digest: str) -> Sequence[str]:
        if digest not in self._classes:
            try:
                self._classes[digest] = read(cached_bundle(self.releases, digest, self.root))["classes"]
            except EvergreenError as error:  # the version was deleted, or the store is away: labels do not need it
                logger.warning("the classes of model %s are not known: %s", digest[:12], error)
                return ()
        return self._classes[digest]


def by_likelihood(classes: Sequence[str], likely: dict[str, float], first: Sequence[str] = ()) -> list[str]:
    """`classes` with the likeliest first; without probabilities, those in `first` lead in their order."""
    place = {name: number for number, name in enumerate(reversed(first), 1)}
    return sorted(classes, key=lambda name: (-likely.get(name, 0.0), -place.get(name, 0)))
