"""Say how a source was read before anything is taken: classes, splits, columns, files left aside."""

import unicodedata
from collections import Counter
from collections.abc import Collection

from tasks.common.cells import without_surrogates
from tasks.common.text import join_names, one_line
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.records import ALIASES, Columns
from tasks.sources.source import READERS, Source, read_time
from tasks.sources.times import fitting_formats


def understood(source: Source, task: str, known: Collection[str] = ()) -> list[str]:
    """Sentences for the user about `source`; `known` are the classes that the data set has already."""
    classes: Counter[str] = Counter()
    bad_times: list[str] = []
    spellings: dict[str, set[str]] = {}  # class -> how the source writes it
    aside = source.contents.left_aside() if source.contents is not None else []
    if source.layout is not None and source.contents is not None:
        offered = [(row.label, row.bad_time) for row in source.rows(images=False)]
        rows, bad_times = Counter(label for label, _ in offered).items(), [found for _, found in offered if found]
        how, more = f"by the layout {source.layout.template}", aside
    elif source.contents is not None:
        rows = source.contents.classes().items()
        how, more = "from folder names", [*source.contents.sentences(), *aside]
    else:
        rows, bad_times, columns = _cells(source)
        how, more = "from a column", [_columns(columns)]
    for raw, count in rows:
        try:
            found = fields.label(raw, task, None)
        except Unusable:
            continue
        for name in [found] if isinstance(found, str) else found or []:
            classes[name] += count
            if isinstance(raw, str):
                spellings.setdefault(name, set()).add(raw.strip())
    first = "no labels"
    if classes:
        first = f"{len(classes)} class{'' if len(classes) == 1 else 'es'} {how} ({join_names(sorted(classes), 8)})"
    said = [f"understood: {'; '.join([first, *filter(None, more)])}"]
    twice = sorted(name for name, found in spellings.items() if name not in found or len(found) > 1)
    if twice and task == "multiclass":
        said.append(f"note: {join_names(twice)}: other Unicode forms of these names count as the same class")
    said += [
        f"note: {len(names)} class names look alike: {join_names(names)}: if they are one class, rename them to one"
        for names in alike({*classes, *known})
        if not classes.keys().isdisjoint(names)
    ]
    return said + ([time_note(bad_times)] if bad_times else [])


def alike(names: Collection[str]) -> list[list[str]]:
    """Groups of class names that differ only in case, accents, spaces, hyphens or underscores."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        letters = unicodedata.normalize("NFKD", name.casefold())
        plain = "".join(c for c in letters if not unicodedata.combining(c) and not c.isspace() and c not in "-_")
        groups.setdefault(plain, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _cells(source: Source) -> tuple[list[tuple[object, int]], list[str], Columns]:
    """(raw labels with their counts, times that cannot be read, the columns that were found) of manifests."""
    counts: dict[str, tuple[object, int]] = {}
    bad_times = []
    columns = source.columns
    for file in source.manifests:
        for _, columns, record in READERS[file.suffix.lower()](file, source.columns, False):
            raw = record.get(columns.label) if columns.label else None
            if raw is not None:
                counts[repr(raw)] = (raw, counts.get(repr(raw), (raw, 0))[1] + 1)
            for column in filter(None, (columns.time, columns.labelled_at)):
                bad_times += filter(None, [read_time(record.get(column), source.times)[1]])
    return list(counts.values()), bad_times, columns


def time_note(bad_times: list[str]) -> str:
    """What to do about times that cannot be read."""
    forms = "' or '".join(fitting_formats(dict.fromkeys(bad_times)) or ["FORMAT"])
    count = "1 time cannot be read" if len(bad_times) == 1 else f"{len(bad_times)} times cannot be read"
    return (
        f"note: {count}, e.g. {one_line(without_surrogates(bad_times[0]))!r}: such an image is taken without its time. "
        f"To keep it, first say how times are written: --time-format '{forms}', or data.time_format"
    )


def _columns(columns: Columns) -> str:
    meanings = {"group": " (kept together in one split)", "source": " (a slice: divided between the splits)"}
    meanings |= {"key": " (yours, to find an image by)"}
    named = [(role, getattr(columns, role)) for role in ALIASES]
    parts = [f"{role} {one_line(without_surrogates(name))!r}{meanings.get(role, '')}" for role, name in named if name]
    if columns.slices:
        parts.append(f"slices {join_names(columns.slices, 8)}")
    return f"columns taken: {', '.join(parts)}" if parts else ""
