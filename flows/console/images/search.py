"""What a word in the search box means: an image, a class, a window, a run, a version, a batch."""

import re
from dataclasses import dataclass
from urllib.parse import urlencode

from flows.console.index.index import Index
from flows.publishing.history import known_history
from flows.publishing.recorded_run import RUN_ID
from flows.runs.overview import one_run
from monitoring.journal import window_times
from tasks.releases.store import Releases

MOST = 50
VERSION = re.compile(r"v?\d+(\.\d+){1,2}")
FACETS = {"predicted": "class", "source": "source", "batch": "batch"}


@dataclass(frozen=True)
class Hit:
    """One thing that was found."""

    kind: str
    text: str
    url: str
    image: str | None = None  # id, for a thumbnail


def search(index: Index, releases: Releases, text: str) -> list[Hit]:
    """What `text` names: exact names first, then classes, sources and batches that contain it, then images."""
    text = text.strip()
    if not text:
        return []
    hits = [*_named(index, releases, text), *_facets(index, text)]
    for row in index.named(text, MOST):
        hits.append(Hit("image", row.key or row.path or row.id[:12], f"/images/{row.id}", row.id))
    return list({hit.url: hit for hit in reversed(hits)}.values())[::-1][:MOST]


def _named(index: Index, releases: Releases, text: str) -> list[Hit]:
    hits = []
    if window_times(text) is not None and index.window(text):
        hits.append(Hit("window", text, f"/production/{text}"))
    if VERSION.fullmatch(text):
        version = text if text.startswith("v") else f"v{text}"
        if any(pointer.version == version for pointer in known_history(index.root, releases)):
            hits.append(Hit("version", version, f"/releases/{version}"))
    if RUN_ID.fullmatch(text) and one_run(index.root, releases, text):
        hits.append(Hit("run", text, f"/runs/{text}"))
    return hits


def _facets(index: Index, text: str) -> list[Hit]:
    """Classes, sources and batches: those of this name first."""
    names, found = index.columns().names, []
    low = text.casefold()
    for facet, kind in FACETS.items():
        values = {value for value in names[facet] if value}
        if facet == "predicted":
            values |= {value for value in names["true"] if value}
        for value in sorted(values, key=lambda one: (one.casefold() != low, one)):
            if low not in value.casefold():
                continue
            url = f"/data/{value}" if facet == "batch" else "/images?" + urlencode({facet: value})
            if facet == "predicted" and value not in names["predicted"]:
                url = "/images?" + urlencode({"true": value})
            found.append(Hit(kind, value, url))
    return found
