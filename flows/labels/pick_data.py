"""Pick unlabelled images of data/ for labelling, and list the picks that still have no label.

    <state>/label-queue/<time>-<hash>.json   one selection: its images, when and why they were picked

Informative picks come from the train split alone. A labelled calibration or test image must stand for all images that
will come, so from these splits images are drawn at random, as many as keep them in step with data.split.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import AwareDatetime

from tasks.active.pick import Picked, pick
from tasks.active.pool import Pool
from tasks.active.samples import class_names, features_of, live_samples, of_split
from tasks.common.checks import Frozen
from tasks.common.files import content_key, write_json
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.common.person import person
from tasks.common.rebuildable import expect, read_rebuildable
from tasks.dataset.shards import iter_bytes
from tasks.models import probe
from tasks.scoring.targets import encode

FOLDER = "label-queue"
CHOSEN = "chosen by a person"
SUGGESTED = "suggested by CLIP"  # from class names (flows.labels.first_labels); no person has checked the answer
MISTAKE = "behind mistakes"  # the label taught the model mistakes (flows.labels.mistakes)
CANDIDATES = 20_000  # images that are compared, and labelled images that teach the probe; random ones of more
SEEN = 5_000  # labelled images of which near-duplicates are left out
GROWING = ("train", "calibration", "test")


class DataPick(Frozen):
    """An image of data/ that people were asked to label."""

    id: str
    why: str  # tasks.active.pick.Picked.why
    prediction: str | list[str] | None  # of a probe or CLIP; None for random picks, so that it sways nobody
    confidence: float | None
    split: str
    queued_at: AwareDatetime
    because: str


class Suggester(Protocol):
    """What answers for unlabelled images (flows.labels.first_labels.FirstLabels)."""

    because: str

    def entries(self, free: pa.Table, budget: int, seen: Sequence[int]) -> list[tuple[str, str, str, float, str]]: ...


def pick_data(
    root: Path,
    params: Params,
    budget: int,
    samples: pa.Table | None = None,
    suggester: Suggester | None = None,
) -> list[DataPick]:
    """Pick up to `budget` images of data/ that have no label and were not picked before; returns them, best first.

    Probabilities come from a linear probe of the labelled training images on pretrained features. With fewer than two
    classes there is none, and the picks are typical images (tasks.active.methods.typiclust).
    suggester: picks those of the train split instead, each with an answer to check.
    """
    samples = live_samples(root, params) if samples is None else samples
    before = {entry.id for entry in picked(root)}
    splits = {name: (of_split(samples, name, True), of_split(samples, name, False)) for name in GROWING}
    left = {name: rows.filter(pc.invert(_among(rows, before))) for name, (_, rows) in splits.items()}
    shares = divide(
        {name: len(rows) for name, (rows, _) in splits.items()},
        {name: len(rows) for name, rows in left.items()},
        params.data.split.model_dump(include=set(GROWING)),
        budget,
    )
    now, because = datetime.now(UTC), f"requested by {person(root)}"
    seed = len(before)  # later picks draw other images
    entries = []
    if shares["train"] and suggester is not None:
        free = _sample(left["train"], np.random.default_rng(seed))
        entries += suggester.entries(free, shares["train"], _seen(splits["train"][0]))
        because = f"{suggester.because}; {because}"
    elif shares["train"]:
        entries += _informative(root, params, splits["train"][0], left["train"], shares["train"], seed)
    for name in GROWING[1:]:
        rows = np.random.default_rng(seed).permutation(len(left[name]))[: shares[name]]
        entries += [(left[name]["id"][int(row)].as_py(), "random", None, None, name) for row in rows]
    fields = ("id", "why", "prediction", "confidence", "split")
    found = [DataPick(**dict(zip(fields, one, strict=True)), queued_at=now, because=because) for one in entries]
    _write(root, found, now)
    return found


def ask(
    root: Path, splits: Mapping[str, str], because: str, why: str = CHOSEN, prediction: str | list[str] | None = None
) -> list[DataPick]:
    """Ask people for a label of images that somebody chose (id -> split), labelled or not; returns those not yet asked.

    One with a label waits among the label issues until a person says something about it. why: CHOSEN or MISTAKE;
    prediction: the label that seems right.
    """
    now = datetime.now(UTC)
    before = {entry.id for entry in picked(root) if entry.why == why}
    found = [
        DataPick(id=name, why=why, prediction=prediction, confidence=None, split=split, queued_at=now, because=because)
        for name, split in splits.items()
        if name not in before
    ]
    _write(root, found, now)
    return found


def _write(root: Path, found: Sequence[DataPick], now: datetime) -> None:
    if found:
        content = [entry.model_dump(mode="json") for entry in found]
        write_json(state_dir(root) / FOLDER / f"{now:%Y%m%dT%H%M%S%fZ}-{content_key(content)[:16]}.json", content)


def divide(
    labelled: Mapping[str, int], free: Mapping[str, int], fractions: Mapping[str, float], budget: int
) -> dict[str, int]:
    """Picks per split: calibration and test get what they lack of their share, train the rest.

    labelled, free: images with and without a label in each split. fractions: data.split.
    """
    total = sum(labelled.values()) + budget
    found = {}
    for name in GROWING[1:]:
        lacking = round(fractions[name] * total) - labelled[name]
        found[name] = int(np.clip(lacking, 0, min(free[name], budget - sum(found.values()))))
    return {"train": min(free["train"], budget - sum(found.values())), **found}


def _informative(
    root: Path, params: Params, labelled: pa.Table, free: pa.Table, budget: int, seed: int
) -> list[tuple[str, str, str | list[str] | None, float | None, str]]:
    rng, multilabel = np.random.default_rng(seed), params.data.task == "multilabel"
    free, labelled = _sample(free, rng), _sample(labelled, rng)
    x = features_of(root, free, params)[:].astype(np.float32)
    known = features_of(root, labelled, params)[:].astype(np.float32) if len(labelled) else None
    classes = class_names(labelled["label"]) if len(labelled) else []
    head, counts = None, None
    if known is not None and len(classes) > 1:
        y = encode(labelled["label"], classes, params.data.task)
        counts = y.sum(axis=0).astype(int) if multilabel else np.bincount(y, minlength=len(classes))
        weight = None if multilabel else 1 / np.maximum(counts, 1)[y]
        head = probe.fit(known, y, len(classes), sample_weight=weight)
    probabilities = None if head is None else head.probabilities(x)
    pool = Pool(
        x,
        probabilities,
        multilabel=multilabel,
        head=head,
        labelled=known,
        counts=counts,
        sources=free["source"].to_pylist(),
        hashes=free["phash"].to_numpy(),
    )
    share, seen = params.review.max_source_share, _seen(labelled)
    picks = pick(pool, budget, params.review.method, max_source_share=share, seen=seen, seed=seed)
    return [
        (free["id"][one.row].as_py(), one.why, *_said(one, probabilities, classes, multilabel), "train")
        for one in picks
    ]


def _said(
    one: Picked, probabilities: np.ndarray | None, classes: Sequence[str], multilabel: bool
) -> tuple[str | list[str] | None, float | None]:
    """What the probe answers for a pick, and how sure it is."""
    if probabilities is None:
        return None, None
    p = probabilities[one.row]
    if multilabel:
        return [name for name, value in zip(classes, p, strict=True) if value > 0.5], float(np.maximum(p, 1 - p).min())
    return classes[int(p.argmax())], float(p.max())


def _seen(labelled: pa.Table) -> list[int]:
    return labelled["phash"].to_pylist()[-SEEN:]


def _sample(rows: pa.Table, rng: np.random.Generator) -> pa.Table:
    if len(rows) <= CANDIDATES:
        return rows
    return rows.take(pa.array(np.sort(rng.choice(len(rows), CANDIDATES, replace=False))))


def _among(rows: pa.Table, ids: set[str]) -> pa.Array:
    return pc.is_in(rows["id"], pa.array(sorted(ids), pa.string()))


# --- what waits


def picked(root: Path) -> list[DataPick]:
    """All images of data/ that people were ever asked to label, oldest first; damaged files are skipped and logged."""
    found = []
    for file in sorted((state_dir(root) / FOLDER).glob("*.json")):
        found += read_rebuildable(file, _accept, "its images are not asked for any more") or []
    return found


def _accept(entries: list) -> list[DataPick]:
    return [DataPick.model_validate(entry) for entry in expect(entries, list)]


def waiting(root: Path, samples: pa.Table) -> list[tuple[DataPick, dict]]:
    """The picks without a label, each once, oldest first, with their rows of `samples` (live_samples)."""
    entries = {entry.id: entry for entry in picked(root)}
    here = samples.filter(pc.and_(pc.is_null(samples["label"]), _among(samples, set(entries))))
    rows = {row["id"]: row for row in here.to_pylist()}
    return [(entry, rows[name]) for name, entry in entries.items() if name in rows]


def images(root: Path, found: Sequence[tuple[DataPick, dict]]) -> Iterator[tuple[DataPick, dict, bytes]]:
    """The picks with their rows and encoded images, with one image in memory at a time.

    Suggestions come first, in their order; all others in the order of the shards, which is faster.
    """
    by_shard: dict[str, dict[int, tuple[DataPick, dict]]] = {}
    for entry, row in found:
        if entry.why == SUGGESTED:
            yield from ((entry, row, content) for _, content in iter_bytes(root / "data" / row["shard"], [row["row"]]))
            continue
        by_shard.setdefault(row["shard"], {})[row["row"]] = (entry, row)
    for shard, places in by_shard.items():
        for place, content in iter_bytes(root / "data" / shard, sorted(places)):
            yield (*places[place], content)
