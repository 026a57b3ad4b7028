"""The slices of each sample: those that its manifest names, and its source (camera, site)."""

from collections import Counter
from collections.abc import Sequence

SOURCES = 50  # the largest sources are slices; a data set may have one for each day


def with_sources(slices: Sequence[Sequence[dict] | None], sources: Sequence[str | None]) -> list[list[dict]]:
    """N lists of {name, value}: `slices` (N,), each with {"name": "source", "value": ...} where it has a source (N,).

    Only the SOURCES largest sources count, ties by name. A slice that is called source itself stays alone.
    """
    counts = Counter(source for source in sources if source is not None)
    largest = set(sorted(counts, key=lambda source: (-counts[source], source))[:SOURCES])
    found = [list(entries or ()) for entries in slices]
    for entries, source in zip(found, sources, strict=True):
        if source in largest and all(entry["name"] != "source" for entry in entries):
            entries.append({"name": "source", "value": source})
    return found
