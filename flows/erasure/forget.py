"""`evergreen forget`: erase images from every place that holds a trace of them, and prove it.

    data/                      rows leave their shards; data.dvc and the ledger are committed
    release store              bundles get a reference without their thumbnails (`redacted/` maps old to new)
    production log             rows leave their files
    DVC cache and remote       objects that show or name them are deleted, unless others use them too
    .evergreen, artifacts/     caches, workspaces of ended runs
    scale.shared               shards and entries that Ray's workers read
    reports, queues, exports   lose the tile, row or entry; the rest stays (flows.erasure.project_places)

Versions whose data held the image can then be restored only without those shards. Their models stay, and the ledger
(tasks.ingest.erasures) says which were trained with it. The ledger is written before anything is deleted and lists
everything that will be missing, so `evergreen verify` can tell erased from lost. A journal in .evergreen/forget records
the erasure in progress with all that is searched for: if it is killed, the next call or the nightly clean-up completes
it. From then on, ingest refuses exactly the same bytes. A re-encoded copy has another id and is not recognised.
"""

import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from flows.erasure.look_alikes import alike_note, look_alikes
from flows.erasure.occurrences import (
    ErasurePlan,
    known_of,
    log_store,
    matching_ids,
    needed_objects,
    plan_erasure,
)
from flows.erasure.places import store_items
from flows.erasure.prefect_records import clean_prefect
from flows.erasure.project_places import (
    Place,
    clean_places,
    exports,
    records,
    search_places,
    shared_by_workers,
)
from flows.erasure.proof import Line, Proof, as_line, make_proof, proofs, write_proof
from flows.erasure.steps import clean_notes, clean_state, commit, redact, remove_objects, restore, write_ledger
from flows.labels.journal import forget_answers
from flows.labels.sitting_store import Sittings
from flows.repo.pipeline import record_data
from flows.repo.workspace import alive_runs
from flows.scale.shared import shared_place
from tasks.common.errors import EvergreenError
from tasks.common.failpoints import failpoint
from tasks.common.files import locked, read_json, write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import main_checkout, state_dir
from tasks.common.person import person
from tasks.erasure.documents import blank_text
from tasks.erasure.traces import Search, Traces
from tasks.ingest import erase, erasures
from tasks.ingest.lock import data_lock
from tasks.releases.store import Releases, open_store

MONITOR_SECONDS = 600.0  # a monitor run that writes pages
BEYOND = (
    "what people copied elsewhere by hand, and what Label Studio or another tool imported: delete it there",
    "other clones and their caches: run `evergreen forget` there too, after `git fetch`",
    "weights and thresholds of models that were trained with the images: the ledger names the versions; exports and "
    "devices hold copies of them",
    "what devices captured and nobody has collected yet: `evergreen collect` does not take erased images",
    "snapshots and versioned objects that a file system, a backup program or an S3 bucket keeps by itself",
)

Step = Callable[[str], None]


class Erasure(NamedTuple):
    """What `forget` found or did."""

    plan: ErasurePlan
    lines: list[Line]  # of the search before
    proof: Proof | None  # of an erasure that was carried out, now or earlier
    file: Path | None = None  # of the proof
    alike: tuple[str, ...] = ()  # ids of other images that look the same


def forget(
    root: Path,
    what: str | Sequence[str],
    why: str,
    *,
    yes: bool = False,
    shared: bool = False,
    step: Step = lambda text: None,
) -> ErasurePlan:
    """As `erase_images`; returns the plan alone."""
    return erase_images(root, [what] if isinstance(what, str) else what, why, yes=yes, shared=shared, step=step).plan


def erase_images(
    root: Path,
    what: Sequence[str],
    why: str,
    *,
    yes: bool = False,
    shared: bool = False,
    step: Step = lambda text: None,
) -> Erasure:
    """Find the images that `what` names, and everything that holds a trace of them; with `yes` erase them.

    what: ids (64 hex digits) or their starts, keys, paths or file names, or sources and groups whose images are all
    meant. shared: delete objects of DVC also where another project uses them; otherwise these stay, and the plan
    names them. An erasure that was killed is completed first, with or without `yes`. Images that were erased before
    are searched for again, and nothing else happens. Raises EvergreenError if nothing is found, or if a run is alive:
    it might still write what is being erased.
    """
    root = main_checkout(root)
    params = load_params(root / "params.yaml")
    if alive := list(alive_runs(root)):
        raise EvergreenError(f"run {alive[0]} is alive and may hold these images: wait until it ends, or stop it")
    releases = open_store(params.store, root)
    completed = next(iter(complete_erasures(root, step)[::-1]), None)
    ids, needed = set(), needed_objects(root, params, releases)
    for one in what:
        step(f"looking for {one}")
        found = matching_ids(root, params, needed, one)
        if not found and completed is None:
            raise EvergreenError(
                f"no image with id, key, path, source or group {one!r} is in the data, the versions or the log"
            )
        ids |= found
    traces = known_of(root, params, needed, ids) if ids else Traces(ids=[])
    plan, lines = _search(root, params, releases, needed, Search(traces), step) if ids else (ErasurePlan(ids=[]), [])
    if not any(line.before for line in lines):
        return _nothing_there(root, traces, lines, completed)
    step("looking for images that look the same")
    alike = look_alikes(root, releases, log_store(root, params), ids)
    if not yes:
        return Erasure(plan, lines, None, alike=tuple(alike))
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    about = {"plan": plan.model_dump(), "at": at, "by": person(root), "why": why, "shared": shared}
    about |= {
        "traces": traces.model_dump(),
        "before": [line.model_dump() for line in lines],
        "notes": [*alike_note(alike), *BEYOND],
    }
    journal = state_dir(root) / "forget" / f"{re.sub('[^0-9]', '', at)}.json"
    write_json(journal, about)
    failpoint("forget.journal")
    return _erase(root, params, releases, about, journal, step, plan)


def complete_erasures(root: Path, step: Step = lambda text: None) -> list[Erasure]:
    """Complete every erasure that was killed, oldest first. Raises EvergreenError while a run is alive."""
    root, done = main_checkout(root), []
    for journal in sorted((state_dir(root) / "forget").glob("*.json")):
        if alive := list(alive_runs(root)):
            raise EvergreenError(
                f"run {alive[0]} is alive and may hold images that are being erased: wait until it ends"
            )
        params = load_params(root / "params.yaml")
        step("completing an erasure that was interrupted")
        done.append(_erase(root, params, open_store(params.store, root), read_json(journal), journal, step))
    return done


def _nothing_there(root: Path, traces: Traces, lines: list[Line], completed: Erasure | None) -> Erasure:
    """The answer if no place holds a trace: what was just completed, or the proof that all were erased before."""
    if completed is not None:
        return completed
    ledger = erasures.read_ledger(root)
    for image in traces.ids:
        if erasures.why_erased(ledger, image) is None:
            raise EvergreenError(f"no image with id {image!r} is in the data, the versions, the log or any other place")
    about = ledger["erasures"][ledger["images"][erasures.hashed_id(traces.ids[-1])]]
    before = next((p for p in reversed(proofs(root)) if p.at == about["at"]), None)
    proof = Proof(
        **{name: about[name] for name in ("at", "by", "why")},
        images=len(traces.ids),
        hashes=[erasures.hashed_id(image) for image in traces.ids],
        searched_by=traces.searched_by(),
        lines=[
            line.model_copy(update={"after": line.before, "before": _earlier(before, line.place)}) for line in lines
        ],
        notes=list(BEYOND),
        searched_at=_now(),
    )
    return Erasure(ErasurePlan(ids=[]), lines, proof)


def _earlier(proof: Proof | None, place: str) -> dict[str, int]:
    """What the stored proof says a place held."""
    return next((line.before for line in proof.lines if line.place == place), {}) if proof else {}


def _search(
    root: Path, params: Params, releases: Releases, needed: Collection[str], search: Search, step: Step
) -> tuple[ErasurePlan, list[Line]]:
    """What every place holds now."""
    plan, tables = plan_erasure(root, params, releases, needed, search, step)
    step("looking through pages, queues, caches and git")
    seen = [*tables, *search_places(root, params, releases, log_store(root, params), search)]
    for line in sorted({line for users in plan.shared.values() for line in users}):
        count = sum(line in users for users in plan.shared.values())
        tables[1].notes.append(f"{count} object(s) stay in {line} uses them too; --shared deletes them for everyone")
    return plan, [as_line(one, search) for one in seen]


# the erasure: each step can be repeated


def _erase(
    root: Path,
    params: Params,
    releases: Releases,
    about: dict,
    journal: Path,
    step: Step,
    plan: ErasurePlan | None = None,
) -> Erasure:
    noted = ErasurePlan.model_validate(about["plan"])
    traces = Traces.model_validate(about.get("traces", {"ids": noted.ids}))
    search, ids, needed = Search(traces), set(noted.ids), needed_objects(root, params, releases)
    if plan is None:  # a killed call may have deleted some of what it had noted, and others have written since
        plan, _ = plan_erasure(root, params, releases, needed, search, step)
    objects, names = {*noted.objects, *plan.objects}, {*noted.shards, *plan.shards}
    with data_lock(root):  # keeps an ingest from starting
        if not (root / "data/dataset.json").is_file() and (root / "data.dvc").is_file():
            restore(root)
        step("writing the ledger")
        write_ledger(root, about, noted, objects)
        failpoint("forget.ledger")
        if (root / "data/dataset.json").is_file():
            step("rewriting data/")
            erase.erase_ids(root / "data", ids)
            clean_notes(root / "data", search)
            failpoint("forget.rewritten")
            record_data(root)
        commit(root, len(ids))
        failpoint("forget.committed")
    step("release store")
    redact(releases, ids)
    failpoint("forget.redacted")
    log = log_store(root, params)
    with locked(state_dir(root) / "monitor.lock", MONITOR_SECONDS, "the monitor, which writes pages,"):
        step("production log")
        clean_places([Place("", lambda: store_items(log, lambda key: key.endswith(".parquet"), named=True))], search)
        failpoint("forget.log")
        step("reports, queues and windows")
        clean_places(records(root, releases, log), search)
        forget_answers(root, ids, lambda text: blank_text(text, search))
        Sittings(root).forget(ids)
        failpoint("forget.records")
    step("caches")
    clean_state(root, search, names)
    if (place := shared_place(root, params)) is not None:
        place.forget(names)
    clean_places(shared_by_workers(root, params), search)
    failpoint("forget.state")
    step("exports")
    clean_places([exports(root)], search)
    failpoint("forget.exports")
    step("Prefect")
    clean_prefect(root, search)
    failpoint("forget.prefect")
    step("DVC cache and remote")
    remove_objects(root, objects, needed, about.get("shared", False))
    failpoint("forget.objects")
    _, lines = _search(root, params, releases, needed, search, step)
    proof = make_proof(about, traces, [Line.model_validate(line) for line in about.get("before", [])], lines, _now())
    file = write_proof(root, proof)
    failpoint("forget.proof")
    journal.unlink()
    return Erasure(noted, lines, proof, file)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
