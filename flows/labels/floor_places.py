"""What floors can be about: classes, slices, sources and images. Asked before training starts."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.common.artifacts import ACCEPTED
from tasks.common.files import read_json
from tasks.common.floors import WORST, Floor
from tasks.common.text import join_names


@dataclass(frozen=True)
class Places:
    """Names that floors may use: all classes; of the test and hard images the slices, sources, ids and keys."""

    classes: list[str]
    slices: set[str]  # name=value
    sources: set[str]
    images: set[str]  # ids
    keys: set[str]
    hard: bool  # is there a hard set?


def places_of_run(root: Path) -> Places:
    """What `validate` left in the workspace `root`."""
    columns = ["id", "key", "split", "source", "slice"]
    return places(read_json(root / "artifacts/validate/classes.json"), pq.read_table(root / ACCEPTED, columns=columns))


def places(classes: list[str], samples: pa.Table) -> Places:
    """samples: id, key, split, source and slice of every sample."""
    held_out = samples.filter(pc.is_in(samples["split"], pa.array(["test", "hard"])))
    tested = held_out.filter(pc.equal(held_out["split"], "test"))
    slices = {f"{one['name']}={one['value']}" for entries in tested["slice"].to_pylist() for one in entries or ()}
    return Places(
        classes,
        slices,
        set(tested["source"].drop_null().to_pylist()),
        set(held_out["id"].to_pylist()),
        set(held_out["key"].drop_null().to_pylist()),
        len(tested) < len(held_out),
    )


def unknown_floors(floors: Sequence[Floor], known: Places) -> list[str]:
    """A line for each floor that the gate could not judge, with what there is instead."""
    return [line for number, floor in enumerate(floors) if (line := _unknown(f"gate.floors.{number}", floor, known))]


def unknown_costs(costs: Iterable[str], known: Places) -> list[str]:
    """A line for each class in calibrate.cost_false_negative that there is not, with what there is instead."""
    return [
        f"calibrate.cost_false_negative: there is no class {name!r}: {_instead(name, known.classes)}"
        for name in costs
        if name not in known.classes
    ]


def _unknown(path: str, floor: Floor, known: Places) -> str | None:
    if floor.class_ is not None and floor.class_ not in known.classes:
        return f"{path}: there is no class {floor.class_!r}: {_instead(floor.class_, known.classes)}"
    if floor.set == "hard" and not known.hard:
        return f"{path}: there is no hard set: `evergreen ingest --hard` makes one"
    if floor.image is not None and floor.image not in known.keys:
        number = sum(id_.startswith(floor.image) for id_ in known.images)
        if number != 1:
            found = f"{number} ids begin like this: write more of it" if number else "no test or hard image has this id"
            return f"{path}: image {floor.image!r}: {found}{'' if number else ' or key'}"
    for kind, named, there in (("slice", floor.slice, known.slices), ("source", floor.source, known.sources)):
        own = named if kind == "source" else (named or "").removeprefix("source=")
        among = known.sources if own != named else there
        if named == WORST and not there:
            return f"{path}: no test image has a {kind}"
        if named not in (None, WORST) and own not in among:
            return f"{path}: no test image is of {kind} {named!r}: {_instead(named, sorted(among))}"
    return None


def _instead(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    return f"is {near[0]!r} meant?" if near else f"there are {join_names(list(known), 12) or 'none'}"
