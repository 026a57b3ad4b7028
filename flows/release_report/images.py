"""Prepares the release report's images: mistakes with heat, doubtful labels, quarantined files.

N test and hard images, M shown images, S the side of the model's input.
"""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.release_report import facts
from flows.release_report.heat import cached_heat
from tasks.common.files import read_json
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.dataset.decode import decode
from tasks.dataset.pixels import pixel_table
from tasks.dataset.shards import iter_bytes, read_paths

MISTAKES = 20  # mistakes shown with their heat
ISSUES = 24  # doubtful labels shown
LISTED = 60  # quarantined rows in the list
SIDE = 128  # pixels of a shown image, at most
LARGE = 384  # pixels of an enlarged image, at most: a defect must be visible


def mistakes(root: Path, params: Params, both: facts.Pair, test: np.ndarray) -> dict[str, Any]:
    """The most confident mistakes on the test set, each with its Grad-CAM heat, or the reason why there is no heat."""
    found = facts.mistakes(both.new, test, MISTAKES)
    wrong = int((both.new.predicted[test] != both.new.targets[test]).reshape(len(test), -1).any(axis=1).sum())
    if not found:
        return {"mistakes": [], "wrong": wrong, "no_heat": ""}
    pixels = _pixels(root, params, [both.ids[one.place] for one in found])
    heat, why = cached_heat(root, pixels, [one.asked for one in found], [both.ids[one.place] for one in found])
    doubtful = _doubtful(root)
    tiles = []
    originals = _originals(root, params, [both.ids[one.place] for one in found])
    for row, one in enumerate(found):
        hot = None
        if heat is not None and heat[row].any():
            from tasks.models.grad_cam import overlay

            hot = data_uri(overlay(pixels[row], heat[row]))
        tiles.append(
            one._asdict()
            | {
                "id": both.ids[one.place],
                "image": data_uri(pixels[row]),
                "heat": hot,
                **originals[row],
                "about": both.new.classes[one.asked],
                "doubtful": both.ids[one.place] in doubtful,
            }
        )
    return {"mistakes": tiles, "wrong": wrong, "no_heat": why}


def _doubtful(root: Path) -> set[str]:
    """Ids of held-out images whose given label is more probably wrong than right, as judged by `clean`."""
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["id", "split", "is_issue"])
    return set(cleaned.filter(pc.and_(cleaned["is_issue"], pc.not_equal(cleaned["split"], "train")))["id"].to_pylist())


def issues(root: Path, params: Params) -> dict[str, Any]:
    """The most doubtful labels with their images, the number of each action, and the sentence of stage `clean`."""
    shown, counts = facts.label_issues(root, ISSUES)
    cleaned = read_json(root / "metrics/clean.json")
    if shown:
        for row, original in zip(shown, _originals(root, params, [row["id"] for row in shown]), strict=True):
            row |= original
    return {"issues": shown, "issue_counts": counts, "labels_sentence": cleaned.get("sentence")}


def _originals(root: Path, params: Params, ids: Sequence[str]) -> list[dict[str, str | None]]:
    """For each of the samples `ids`: `path`, and `large`, its picture with at most LARGE pixels on a side."""
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    places = accepted.take(pc.index_in(pa.array(ids, pa.string()), accepted["id"].combine_chunks()))
    shards, rows = places["shard"].to_pylist(), places["row"].to_pylist()
    found: list[dict] = [{"path": path} for path in read_paths(root / "data", shards, rows)]
    for shard in set(shards):
        of_row = {row: at for at, (name, row) in enumerate(zip(shards, rows, strict=True)) if name == shard}
        for row, content in iter_bytes(root / "data" / shard, sorted(of_row)):
            found[of_row[row]]["large"] = _large(content, params.images.max_pixels)
    return found


def _large(content: bytes, max_pixels: int) -> str:
    image = decode(content, max_pixels)
    image.thumbnail((LARGE, LARGE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _pixels(root: Path, params: Params, ids: Sequence[str]) -> np.ndarray:
    """(M, S, S, 3) model input of the samples `ids`."""
    accepted = pq.read_table(root / "artifacts/validate/accepted.parquet", columns=["id", "shard", "row"])
    places = pc.index_in(pa.array(ids, pa.string()), accepted["id"].combine_chunks())
    return pixel_table(root, accepted.take(places), params.images)[:]


def data_uri(pixels: np.ndarray) -> str:
    """uint8 (S, S, 3) as an image at most SIDE wide: PNG if small, else JPEG (a tenth of the bytes of a photo)."""
    from PIL import Image

    image = Image.fromarray(pixels)
    kind, options = ("PNG", {"optimize": True}) if image.width <= 64 else ("JPEG", {"quality": 82})
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64," + base64.b64encode(buffer.getvalue()).decode()


def quarantine(root: Path, params: Params) -> dict[str, Any]:
    """What was not used: rows of the data, with their image where it can be decoded, and files refused at ingest.

    The bytes of refused files are not stored, so these have no image.
    """
    from tasks.stages.validate import page

    refused = pq.read_table(root / "artifacts/validate/quarantine.parquet").to_pylist()
    samples = pq.read_table(root / "artifacts/inspect/samples.parquet", columns=["id", "shard", "row", "status"])
    places = pc.index_in(pa.array([row["id"] for row in refused], pa.string()), samples["id"].combine_chunks())
    where = samples.take(places).drop_columns(["id"]).to_pylist()
    table = pa.Table.from_pylist([row | at for row, at in zip(refused, where, strict=True)]) if refused else None
    tiles = page.tiles(root / "data", table, params.images.max_pixels) if table else []
    result = read_json(root / "artifacts/validate/result.json")
    at_ingest = []
    for batch in [one["batch"] for one in result["batches"]]:
        file = state_dir(root) / "quarantine" / f"{batch}.parquet"
        if file.is_file():
            at_ingest += [row | {"batch": batch} for row in pq.read_table(file).to_pylist()]
    reasons: dict[str, int] = {}
    leaks = [tile for tile in tiles if tile["reason"] in result["excluded"]]  # listed, but counted as left out
    for row in [*tiles, *at_ingest]:
        if row["reason"] not in result["excluded"]:
            reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return {
        "quarantine": tiles[:LISTED],
        "refused": at_ingest[:LISTED],
        "quarantined": len(tiles) - len(leaks) + len(at_ingest),
        "reasons": sorted(reasons.items(), key=lambda one: (-one[1], one[0])),
        "excluded": result["excluded"],
        "synthetic": result.get("synthetic"),
    }
