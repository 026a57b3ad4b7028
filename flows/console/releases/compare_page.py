"""What the page of two versions shows, from what is to be chosen to the images that flipped."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.console.shell.console import Console
from flows.console.shell.facts import recent
from flows.publishing.history import known_history, open_project
from flows.publishing.run_list import held_runs
from flows.versions.comparison import Comparison, compare_versions
from flows.versions.flips import Flip
from flows.versions.floors import standings
from monitoring.plain_names import plain_name
from tasks.common.checks import Check
from tasks.common.errors import EvergreenError

SHOWN = 40  # rows of a table on the page; the CSV file has all
FLIPS = 24  # images of each kind
SECONDS = 20.0  # until the labels and classes of today are looked at again
COLUMNS = ("kind", "what", "in A", "in B", "change", "note")


@dataclass(frozen=True)
class ComparePage:
    """Two names, and how they differ; `problem`: why that cannot be told."""

    a: str
    b: str
    versions: list[str]  # that were live, newest first
    held: list[str]  # ids of runs that wait
    comparison: Comparison | None
    problem: str = ""
    floors: Sequence[tuple[str, Check | None, Check | None]] = ()  # each of today, as A and B stand to it

    @property
    def metrics(self) -> list[tuple[str, object, object, str]]:
        """Figures without the recalls, which the classes show: what got worse first."""
        if self.comparison is None:
            return []
        order = {"worse": 0, "better": 1, "": 2}
        rows = [
            (name, *row) for name, row in self.comparison.versions.metrics.items() if not name.startswith("recall of ")
        ]
        return sorted(rows, key=lambda row: (not row[0].startswith("test."), order[row[3]], row[0]))

    def flips(self, to: str) -> list[Flip]:
        return [row for row in self.comparison.flips.rows if row.to == to][:FLIPS] if self.comparison else []


def compare_page(console: Console, a: str, b: str) -> ComparePage:
    """The page of the versions or held runs `a` and `b`; "": the one live before `b`, the live one."""
    root, releases = console.root, console.releases()
    history = known_history(root, releases)
    versions = list(dict.fromkeys(one.version for one in reversed(history)))
    held = [row.run_id for row in held_runs(root, releases) if row.rev]
    try:
        state = (history[-1].uid if history else "", tuple(held))
        found = recent(("compare", root, a, b, state), lambda: compare_versions(root, a or None, b or None), SECONDS)
    except EvergreenError as error:
        return ComparePage(a, b, versions, held, None, str(error))
    floors = recent(
        ("floors", root, found.versions.a, found.versions.b, state), lambda: both_floors(root, found), SECONDS
    )
    return ComparePage(found.versions.a, found.versions.b, versions, held, found, floors=floors)


def both_floors(root: Path, found: Comparison) -> list[tuple[str, Check | None, Check | None]]:
    """(code, check of A, check of B) of each floor in params.yaml and of the worst source; None: cannot be told."""
    names = found.versions.a, found.versions.b
    a, b = standings(root, open_project(root)[0].gate.floors, names)
    sides = [{check.name: check for check in one.checks} for one in (a, b)]
    return [(code, *(side.get(code) for side in sides)) for code in dict.fromkeys([*sides[0], *sides[1]])]


def table(found: Comparison, floors: Sequence[tuple[str, Check | None, Check | None]] = ()) -> Iterator[tuple]:
    """Every difference as a row of a CSV file."""
    versions = found.versions
    for name, (a, b, way) in versions.metrics.items():
        yield "figure", name, a, b, b - a if _numbers(a, b) else None, way or plain_name(name)
    for code, a, b in floors:
        values = [check.value if check else None for check in (a, b)]
        said = "; ".join(f"{name}: {check.detail}" for name, check in zip("AB", (a, b), strict=True) if check)
        yield "floor", plain_name(code), *values, values[1] - values[0] if _numbers(*values) else None, said
    for one in found.flips.classes:
        yield "class", one.name, one.a, one.b, one.b - one.a, f"{one.n} images, {one.low:+.4f} to {one.high:+.4f}"
    for row in found.flips.rows:
        yield "image", row.id, row.a.said, row.b.said, row.to, f"label {row.label}"
    for split, by_class in versions.images.items():
        for name, (a, b) in by_class.items():
            yield f"images, {split}", name, a, b, b - a, ""
    for kind, entries in versions.batches.items():
        for entry in entries:
            yield f"batch {kind}", entry["batch"], None, None, entry.get("rows"), entry.get("kind") or entry.get("why")
    for action, by_class in versions.actions.items():
        for name, (a, b) in by_class.items():
            yield f"labels to {action}", name, a, b, b - a, ""
    for entry in versions.relabelled:
        yield "corrected label", entry["id"], str(entry["a"]), str(entry["b"]), None, ""
    for name, (a, b) in versions.params.items():
        yield "setting", name, str(a), str(b), None, ""
    for name in versions.code:
        yield "code", name, None, None, None, ""


def _numbers(*values: object) -> bool:
    return all(isinstance(one, int | float) and not isinstance(one, bool) for one in values)
