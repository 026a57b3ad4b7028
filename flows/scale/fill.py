"""Let a Ray cluster make the cache entries that a stage will read, just before the stage runs.

The stage then finds them, or makes what is left. So its result is the same with every engine, and what was finished
before a crash is not done again.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

from tasks.common.params import Params, load_run_params

LEAST = 2  # units; a single one is done by the stage, with all cores of this machine
PER_CPU = 2  # units in flight for each CPU of the cluster: one that is worked on, one that waits


def fill_entries(stage: str, root: Path, say: Callable[[str], object] = print) -> int:
    """Make the entries that `stage` will read in the project at `root`; returns how many were made or fetched.

    Nothing is done with `scale.engine: local`. Raises EvergreenError where the cluster cannot be used.
    """
    params = load_run_params(root / "params.yaml")
    if params.scale.engine == "local":
        return 0
    if stage in ("train_head", "calibrate"):
        from flows.scale.stage1_features import fill_stage1

        return fill_stage1(stage, root, params, say)
    if stage == "evaluate":
        from flows.scale.corrupted import fill_evaluate

        return fill_evaluate(root, params, say)
    from flows.scale import entries, shared

    units = entries.missing(stage, root, params)
    if len(units) < LEAST:
        return 0
    place = shared.shared_place(root, params)
    known = 0 if place is None else _fetch_known(units, root, place)
    left = units if not known else entries.missing(stage, root, params)
    return known + (_make(left, root, params, place, say) if left else 0)


def fill_champion(
    root: Path, params: Params, bundle: Path, predictions: pa.Table, say: Callable[[str], object] = print
) -> int:
    """Make what the gate asks the champion in `bundle` about corrupted images of `predictions`; returns how many."""
    if params.scale.engine == "local":
        return 0
    from flows.scale.corrupted import fill_answers
    from tasks.gate.champion import corrupted_answers

    return fill_answers(corrupted_answers(root, bundle, predictions), params, say)


def _make(units: list, root: Path, params: Params, place, say: Callable[[str], object]) -> int:
    """Make `units` on the cluster."""
    from flows.scale import engine, entries
    from flows.scale.map import ray_map
    from flows.scale.work import Work
    from tasks.common.paths import cache_dir, state_dir
    from tasks.common.progress import track

    cluster = engine.connect(params.scale)
    say(f"{cluster.sentence()}; {len(units)} cache entries to make")
    entries.prepare(root, units)
    cache = cache_dir("inspect", root).parent
    work = Work(root.resolve(), state_dir(root), place)
    made = ray_map(
        work,
        units if place is None else _put_first(units, root, cache, place),
        per_cpu=PER_CPU,
        say=say,
    )
    for unit, digest in track(zip(units, made, strict=True), f"{units[0].kind} by Ray", len(units)):
        if place is not None:
            place.fetch_entry(unit.file, cache, digest)
    return len(units)


def _fetch_known(units: list, root: Path, place) -> int:
    """Fetch what an earlier run, or another machine, has put into the shared place; returns how many units.

    An entry whose content is lost counts as missing.
    """
    from flows.scale.shared import LostObject
    from tasks.common.paths import cache_dir

    cache, fetched = cache_dir("inspect", root).parent, 0
    for unit in units:
        if digest := place.digest(unit.file):
            with suppress(LostObject):
                place.fetch_entry(unit.file, cache, digest)
                fetched += 1
    return fetched


def _put_first(units: list, root: Path, cache: Path, place) -> Iterator:
    """Yield `units`; before each, put what its work reads into the shared place, if it is not there."""
    there = place.shards()
    needed: set[str] = set()
    for unit in units:
        if unit.shard not in there:
            place.put_shard(root / "data" / unit.shard)
            there.add(unit.shard)
        for entry in set(unit.needs) - needed:
            if (cache / entry).is_file() and place.digest(entry) is None:
                place.put_entry(entry, cache)
            needed.add(entry)
        yield unit
