"""How an image is called on pages: its caption, what a screen reader says, values of facets."""

from flows.console.index.facets import SHOWN_NONE
from flows.console.index.index import ImageRow
from monitoring.journal import window_times
from monitoring.pages.render import name, percent, when


def shown_value(facet: str, value: str | None) -> str:
    """A facet's value for people."""
    if value is None:
        return SHOWN_NONE
    return when(value) if facet == "window" and window_times(value) else value


def caption(row: ImageRow) -> str:
    """What it is: the label that counts, else what the model says."""
    return name(row.facets["true"] or row.facets["predicted"] or "no label", 40)


def under(row: ImageRow) -> str:
    """What the model says, where that is another thing or how sure it is."""
    said, true = row.facets["predicted"], row.facets["true"]
    if said is None:
        return name(row.facets["source"] or "", 30)
    sure = f" {percent(row.confidence)}" if row.confidence is not None else ""
    return name(f"seen as {said}{sure}" if true and said != true else f"seen so{sure}" if true else sure.strip(), 60)


def described(row: ImageRow) -> str:
    """The image in words, for those who do not see it."""
    called = row.key or row.path or row.id[:12]
    return name(f"{caption(row)}, {called}", 120)
