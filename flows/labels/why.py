"""`evergreen why ID`: how one sample got its label, and which versions were trained on which label."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.labels.mistakes.found import newest
from flows.labels.people import read_words
from flows.labels.undo import annotations_of
from flows.publishing.history import open_project
from flows.repo.objects import ObjectLost, Objects, open_objects, outs_at
from tasks.common.class_names import composed
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.paths import main_checkout
from tasks.common.schemas import label_type
from tasks.common.text import join_names
from tasks.dataset.hard_set import WORDS, read_changes
from tasks.dataset.shards import live_shards, read_columns, read_image_paths, read_task, read_tombstones
from tasks.labels.annotations import Decision, Label, annotation_key, decide, newest_words, standing
from tasks.labels.reading import names_of, read_votes
from tasks.labels.taxonomy import Taxonomy, read_taxonomy
from tasks.releases.store import Releases

EVIDENCE = "new_evidence.json"  # of the stage clean: confirmed labels that look wrong again, and why
MOST_VERSIONS = 20  # the newest, each read from DVC's objects


def explain(root: Path, image: str) -> list[str]:
    """Lines for the terminal about the sample with this id. Raises EvergreenError if the data set does not hold it."""
    return explain_label(root, image) + in_models(root, image) + in_mistakes(root, image)


def in_mistakes(root: Path, image: str) -> list[str]:
    """What `evergreen mistakes` last found about the sample: what taught the mistake about it, and what it taught."""
    found = newest(root)
    if found is None:
        return []
    lines = []
    for one in found.mistakes:
        if one.id == image:
            taught = "; ".join(f"{it.id[:12]} ({_label(it.label)}, {it.batch})" for it in one.taught[:5])
            lines.append(f"  answered {_label(one.answer)} in run {found.run}, taught by {taught or 'no single image'}")
    if pupils := sum(any(it.id == image for it in one.taught) for one in found.mistakes):
        lines.append(f"  taught {pupils} mistakes of run {found.run}")
    for fix in found.fixes:
        if fix.id == image:
            seems = "may be wrong" if fix.to is None else f"seems to be {_label(fix.to)}"
            lines.append(f"  its label {seems}: it raises the loss on other images (run {found.run})")
    return lines


def explain_label(root: Path, image: str, shard: str | None = None) -> list[str]:
    """How the sample got its label, without the versions. Raises EvergreenError if the data set does not hold it.

    shard: the file that holds it, where that is known; the others are not read.
    """
    sample = _sample(root, image, shard)
    rows = annotations_of(root, image)
    stones = read_tombstones(root)
    counting = [row for row in rows if row["batch"] not in stones]
    decision = _decisions(root, {image: (sample["label"], counting)})[image]
    where = f"{sample['split']}, batch {sample['batch']}" + (", tombstoned" if sample["batch"] in stones else "")
    lines = [f"{image}  {sample['path'] or ''}".rstrip(), f"  {where}", *_in_hard_set(root, image)]
    taxonomy = read_taxonomy(root / "data")
    lines.append(f"  first given:  {_told(sample['label'], taxonomy)}")
    counts = {annotation_key(row) for row in standing(counting)}
    deciding = {(row["batch"], row["annotator"], row["at"]) for row in decision.deciding}
    newest = {annotation_key(row) for row in newest_words(counting)}
    about = (counts, newest, deciding, stones, decision.rule == "reviewer", taxonomy)
    lines += [f"  {_said(row, *about)}" for row in rows]
    now = "excluded" if decision.excluded else _label(decision.label)
    confirmed = "" if decision.confirmed is None else ", confirmed"
    against = f"; since then {decision.disputed}" if decision.disputed else ""
    rule = "votes: the label first given stays" if decision.rule == "votes" and not decision.deciding else decision.rule
    return [*lines, f"  counts now:   {now} ({rule}{confirmed}{against})"]


def _in_hard_set(root: Path, image: str) -> list[str]:
    """What people said about the sample's place in the hard set."""
    rows = [row for row in read_changes(root / "data").to_pylist() if row["id"] == image]
    return [f"  hard set:     {WORDS[row['what']]} by {row['by']}, {row['at']:%Y-%m-%d}: {row['why']}" for row in rows]


def labels_now(root: Path, images: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Id -> (the label that counts, for people, the owner's path) of some samples of the data set."""
    stones, samples = read_tombstones(root), {image: _sample(root, image) for image in images}
    votes = {image: (sample["label"], annotations_of(root, image, stones)) for image, sample in samples.items()}
    return {
        image: ("excluded" if found.excluded else _label(found.label), samples[image]["path"] or "")
        for image, found in _decisions(root, votes).items()
    }


def _decisions(root: Path, votes: Mapping[str, tuple[Label, list[dict]]]) -> dict[str, Decision]:
    """What counts for samples now, as the next run decides it. votes: id -> (label first given, annotations)."""
    params, taxonomy = load_params(root / "params.yaml"), read_taxonomy(root / "data")
    found = {image: decide(*read_votes(first, standing(rows), taxonomy)) for image, (first, rows) in votes.items()}
    if params.labels.consensus != "majority" and any(one.rule == "votes" for one in found.values()):
        settled = read_words(root, params).decisions  # depends on the votes about all samples
        found |= {image: settled[image] for image in found if image in settled}
    return found


def _told(label: Label, taxonomy: Taxonomy) -> str:
    """A label as it was given, and how it is read today where its names have changed."""
    readings = {name: taxonomy.read(name) for name in names_of(label)}
    changed = [
        found.now or (f"one of {join_names(found.among)}" if found.among else "retired")
        for name, found in readings.items()
        if found.now != name
    ]
    return f"{_label(label)} (today: {', '.join(changed)})" if changed else _label(label)


def _said(
    row: dict,
    counts: set[str],
    newest: set[str],
    deciding: set[tuple],
    stones: dict,
    overridden: bool,
    taxonomy: Taxonomy,
) -> str:
    decides = (row["batch"], row["annotator"], row["at"]) in deciding
    label = _told(row["label"], taxonomy)
    what = "undoes an earlier one" if row["retracts"] else "exclude" if row["exclude"] else label
    if row["batch"] in stones:
        state = "its batch is tombstoned"
    elif row["retracts"]:
        state = ""
    else:
        state = "undone" if annotation_key(row) not in counts else "decides" if decides else "counts"
        if state == "counts" and annotation_key(row) not in newest:
            state = "replaced by a newer word"
        elif state == "counts" and overridden:
            state = "overridden by a reviewer"
    at = f"{row['at']:%Y-%m-%d %H:%M}" if row["at"] else "at an unknown time"
    about = ", ".join(filter(None, [row["why"], f"saw {row['model_version']}" if row["model_version"] else ""]))
    said = f"{at}  {row['role']} {row['annotator'] or ''}".rstrip() + f": {what}" + (f" ({about})" if about else "")
    return said + (f" - {state}" if state else "") + f"  [{row['batch']}]"


def _label(label: str | list[str] | None) -> str:
    if label is None or isinstance(label, str):
        return label or "no label"
    return ", ".join(label) or "none of the classes"


def _sample(root: Path, image: str, within: str | None = None) -> dict:
    kind = label_type(read_task(root / "data"))
    for shard in live_shards(root / "data"):
        if within not in (None, shard.name):
            continue
        table = read_columns(shard.path, ["id", "label", "split", "batch"])
        found = pc.index(table["id"], image).as_py()
        if found >= 0:
            row = table.slice(found, 1).to_pylist()[0]
            place = pa.table({"shard": [shard.name], "row": [found]})
            (row["label"],) = composed(pa.chunked_array([pa.array([row["label"]], kind)])).to_pylist()
            return row | {"path": read_image_paths(root, place)[0]}
    raise EvergreenError(f"the data set in {root / 'data'} holds no image {image!r}")


def in_models(root: Path, image: str) -> list[str]:
    """What the newest versions, and the newest run, made of the sample."""
    taxonomy = read_taxonomy(root / "data")
    _, releases = open_project(root)
    commits = _commits(releases)
    if not commits:
        return ["  no model was trained yet"]
    main = main_checkout(root)
    with open_objects(main) as objects:
        return [f"  {name}: {_in_model(main, objects, rev, image, taxonomy)}" for name, rev in commits.items()]


def _commits(releases: Releases) -> dict[str, str]:
    """Name -> commit of the newest run, if it waits for approval, and of the versions, the newest first."""
    found = {}
    newest = newest_run(releases)
    about = releases.run(newest) if newest else None
    if about and about.get("rev") and about["outcome"] == "held":
        found[f"run {newest} (held)"] = about["rev"]
    for pointer in reversed(releases.history()):
        found.setdefault(pointer.version, pointer.git_rev)
    return dict(list(found.items())[:MOST_VERSIONS])


def newest_run(releases: Releases) -> str | None:
    """The id of the newest recorded run: ids sort by time."""
    keys = (key.removeprefix("runs/") for key in releases.store.list("runs/"))
    return max((key.removesuffix(".json") for key in keys if "/" not in key), default=None)


def _in_model(root: Path, objects: Objects, rev: str, image: str, taxonomy: Taxonomy) -> str:
    try:
        outs = outs_at(root, rev)
        if (folder := outs.get("artifacts/clean")) is None:
            return "adopted: nobody here knows what it was trained on"
        files = objects.files(folder)
        table = pq.read_table(io.BytesIO(objects.read(files["labels.parquet"])))
        opened = json.loads(objects.read(files[EVIDENCE])) if EVIDENCE in files else {}
    except (ObjectLost, KeyError) as error:
        return f"cannot be read ({error})"
    rows = table.filter(pc.equal(table["id"], image)).to_pylist()
    if not rows:
        return "not used: it was not there, had no label, or was left out"
    (row,) = rows
    use = {"train": "trained on", "calibration": "calibrated on"}.get(row["split"], "tested on")
    if row["action"] == "drop":
        return f"left out by clean, which took {_label(row['given'])} for wrong"
    label = _told(row["label"], taxonomy)
    if row["action"] == "relabel":
        label += f" (clean changed it from {_label(row['given'])})"
    if row["action"] == "queue":
        label += f" (looks like {_label(row['predicted'])}: waits for a person)"
    evidence = f"; new evidence against it: {opened[image]}" if image in opened else ""
    return f"{use} as {label}{evidence}"
