"""Say how a source was read before anything is taken: classes, splits, columns, files left aside."""

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from tasks.common.cells import without_surrogates
from tasks.common.text import join_names, one_line
from tasks.common.written import look
from tasks.sources import fields
from tasks.sources.fields import Unusable
from tasks.sources.manifests import READERS
from tasks.sources.offered import read_time
from tasks.sources.records import ALIASES, Columns
from tasks.sources.source import Source
from tasks.sources.tables import open_text
from tasks.sources.times import Times, fitting_formats

TEXT = (".csv", ".tsv", ".jsonl", ".ndjson", ".json")


def understood(source: Source, task: str, known: Collection[str] = ()) -> list[str]:
    """Sentences for the user about `source`; `known` are the classes of the data set, also in names of the past."""
    classes: Counter[str] = Counter()
    bad_times: list[str] = []
    bad_rows: list[str] = []
    notes: list[str] = []
    unread, problem = 0, ""  # labels that cannot be used, and why the first one
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
        cells = _cells(source)
        rows, bad_times, bad_rows, notes = cells.labels.values(), cells.bad_times, cells.bad_rows, cells.notes
        how, more = "from a column", [_columns(cells.columns), _files(source)]
    for raw, count in rows:
        try:
            found = fields.label(raw, task, None)
        except Unusable as error:
            unread += count
            problem = problem or error.detail
            continue
        for name in [found] if isinstance(found, str) else found or []:
            classes[name] += count
            if isinstance(raw, str):
                spellings.setdefault(name, set()).add(raw.strip())
    first = "no labels"
    if classes:
        first = f"{len(classes)} class{'' if len(classes) == 1 else 'es'} {how} ({join_names(sorted(classes), 8)})"
    said = [f"understood: {'; '.join([first, *filter(None, more)])}"]
    if source.contents is not None and source.layout is None and (below := source.contents.repeated_below()):
        names, inner, outer = below
        said.append(
            f"note: several of these folders hold folders of the same names ({join_names(names, 8)}), which are not "
            f"read. If those are the classes, use --layout '{inner}'; if they say where images are from, '{outer}'"
        )
    twice = sorted(name for name, found in spellings.items() if name not in found or len(found) > 1)
    if twice and task == "multiclass":
        said.append(f"note: {join_names(twice)}: other Unicode forms of these names count as the same class")
    new = sorted(classes.keys() - set(known))
    if known and new:
        said.append(f"note: new to the data set: {'class' if len(new) == 1 else 'classes'} {join_names(new, 8)}")
    said += [
        f"note: {len(names)} class names look alike: {join_names(names)}: if they are one class, rename them to one"
        for names in alike({*classes, *known})
        if not classes.keys().isdisjoint(names)
    ]
    if unread:
        said.append(f"note: {unread} labels cannot be used, so their images are not taken: {one_line(problem, 200)}")
    if bad_rows:
        said.append(f"note: {len(bad_rows)} rows cannot be read, e.g. {one_line(bad_rows[0], 200)}")
    return [*said, *(f"note: {one_line(note, 200)}" for note in notes), *time_notes(bad_times, source.times)]


def alike(names: Collection[str]) -> list[list[str]]:
    """Groups of class names that look the same: they differ in case, accents, blanks, quotes, or as 1.0 and 1."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(look(name), []).append(name)
    return [group for group in groups.values() if len(group) > 1]


@dataclass
class Cells:
    """What the columns of manifests hold."""

    columns: Columns
    labels: dict[str, tuple[object, int]] = field(default_factory=dict)  # repr -> raw label, rows
    bad_times: list[str] = field(default_factory=list)
    bad_rows: list[str] = field(default_factory=list)  # "labels.csv line 3: why"
    notes: list[str] = field(default_factory=list)  # how files are read


def _cells(source: Source) -> Cells:
    found = Cells(source.columns)
    for file in source.manifests:
        if file.suffix.lower() in TEXT:
            opened, note = open_text(file, "text")
            opened.close()
            found.notes += [note] if note else []
        for where, columns, record in READERS[file.suffix.lower()](file, source.columns, False):
            found.columns = columns
            if isinstance(record, Unusable):
                found.bad_rows.append(f"{where}: {record.detail}")
                continue
            raw = record.get(columns.label) if columns.label else None
            if raw is not None:
                found.labels[repr(raw)] = (raw, found.labels.get(repr(raw), (raw, 0))[1] + 1)
            for column in filter(None, (columns.time, columns.labelled_at)):
                found.bad_times += filter(None, [read_time(record.get(column), source.times)[1]])
    return found


def time_notes(bad_times: list[str], times: Times) -> list[str]:
    """What to do about times that cannot be read, or that only a clock shows that was reset."""
    reset = [text for text in bad_times if times.is_reset(text)]
    unread = [text for text in bad_times if not times.is_reset(text)]
    found = []
    if unread:
        forms = "' or '".join(fitting_formats(dict.fromkeys(unread)) or ["FORMAT"])
        count = "1 time cannot be read" if len(unread) == 1 else f"{len(unread)} times cannot be read"
        found.append(
            f"note: {count}, e.g. {_shown(unread[0])}: such an image is taken without its time. "
            f"To keep it, first say how times are written: --time-format '{forms}', or data.time_format"
        )
    if reset:
        count = "1 time is" if len(reset) == 1 else f"{len(reset)} times are"
        found.append(
            f"note: {count} that of a clock that was reset or set wrong (before 1990, on 2000-01-01, in the future), "
            f"e.g. {_shown(reset[0])}: such an image is taken without its time"
        )
    return found


def _shown(text: str) -> str:
    return repr(one_line(without_surrogates(text)))


def _files(source: Source) -> str:
    """Where the split comes from if folders name it."""
    folders = [f"{without_surrogates(file.parent.name)}/" for file in source.manifests if file.parent != source.path]
    return (
        f"split from {' '.join(folders)}"
        if len(source.manifests) > 1 and all(file.stem in ("_classes", "metadata") for file in source.manifests)
        else ""
    )


def _columns(columns: Columns) -> str:
    meanings = {"group": " (kept together in one split)", "source": " (a slice: divided between the splits)"}
    meanings |= {"key": " (yours, to find an image by)"}
    named = [(role, getattr(columns, role)) for role in ALIASES]
    parts = [f"{role} {one_line(without_surrogates(name))!r}{meanings.get(role, '')}" for role, name in named if name]
    if columns.slices:
        parts.append(f"slices {join_names(columns.slices, 8)}")
    return f"columns taken: {', '.join(parts)}" if parts else ""
