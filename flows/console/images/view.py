"""The state of the page of images, as its address says it: facets, sort, place, and how it is shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qs, urlencode

from flows.console.index.facets import FACETS, SORTS

MOST_FIELDS = 2000  # of an address
MOST_VALUES = 200  # of one facet in an address
UNFOLDED = 4  # facets that are shown with their values at first
NAMED = "-is"  # "window-is=...": a value that was typed


@dataclass(frozen=True)
class View:
    """What a person sees of the images."""

    filters: dict[str, list[str | None]] = field(default_factory=dict)  # facet -> values; None: no value
    sort: str = "newest"
    after: int | None = None  # number of the last row of the page before
    shown: str = "grid"  # or "map"

    def query(self, **changes) -> str:
        """The query string of this view, with fields changed."""
        view = replace(self, **changes)
        pairs = [(facet, value or "") for facet, values in view.filters.items() for value in values]
        pairs += [("sort", view.sort)] if view.sort != "newest" else []
        pairs += [("view", view.shown)] if view.shown != "grid" else []
        pairs += [("after", str(view.after))] if view.after is not None else []
        return urlencode(pairs)

    def url(self, **changes) -> str:
        """The address of this view, with fields changed."""
        query = self.query(**changes)
        return f"/images?{query}" if query else "/images"

    def without(self, facet: str, value: str | None) -> str:
        """The address without one value of a facet, from the first page on."""
        filters = {name: [v for v in values if (name, v) != (facet, value)] for name, values in self.filters.items()}
        return self.url(filters={name: values for name, values in filters.items() if values}, after=None)


def read_view(query: str) -> View:
    """The view that the query string of an address asks for; what it says wrongly counts as not said."""
    given = parse_qs(query, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    filters: dict[str, list[str | None]] = {}
    for facet in FACETS:
        values: list[str | None] = [value or None for value in given.get(facet, [])]
        values += [value.strip() for value in given.get(facet + NAMED, []) if value.strip()]
        if values:
            filters[facet] = list(dict.fromkeys(values))[:MOST_VALUES]
    sort, after = given.get("sort", ["newest"])[0], given.get("after", [""])[0]
    return View(
        filters,
        sort if sort in SORTS else "newest",
        int(after) if after.isdecimal() and len(after) < 19 else None,
        "map" if given.get("view") == ["map"] else "grid",
    )


@dataclass(frozen=True)
class Choice:
    """One value of a facet that a person may choose."""

    value: str | None
    count: int
    chosen: bool


@dataclass(frozen=True)
class Facet:
    """One facet with its values: the chosen ones and those with most rows."""

    name: str
    title: str
    choices: list[Choice]
    more: int  # values that are not listed
    open: bool  # shown unfolded


def facets(
    view: View, counts: dict[str, list[tuple[str | None, int]]], most: int = 10, ordered: Sequence[str] = ()
) -> list[Facet]:
    """The facets as the page lists them; one whose rows all have the same value is left out unless it is chosen.

    ordered: facets whose values are listed by name.
    """
    found = []
    for name, title in FACETS.items():
        chosen, values = view.filters.get(name, []), counts[name]
        if len(values) < 2 and not chosen:
            continue
        listed = [Choice(value, count, value in chosen) for value, count in values]
        listed += [Choice(value, 0, True) for value in chosen if value not in dict(values)]
        kept = [choice for place, choice in enumerate(listed) if place < most or choice.chosen]
        if name in ordered:
            kept.sort(key=lambda choice: (choice.value is None, choice.value or ""))
        unfolded = bool(chosen) or sum(facet.open for facet in found) < UNFOLDED
        found.append(Facet(name, title, kept, len(listed) - len(kept), unfolded))
    return found
