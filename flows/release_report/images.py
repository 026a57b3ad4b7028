"""Prepares the release report's images: mistakes with heat, doubtful labels, quarantined files.

N test and hard images, M shown images, S the side of the model's input.
"""

import base64
import io
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from flows.release_report import facts
from tasks.common.code import code_version
from tasks.common.files import atomic_path, content_key, read_json, sha256_bytes, sha256_file
from tasks.common.params import Params
from tasks.common.paths import cache_dir, state_dir
from tasks.dataset.pixels import pixel_table

MISTAKES = 20  # mistakes shown with their heat
ISSUES = 24  # doubtful labels shown
LISTED = 60  # quarantined rows in the list
SIDE = 128  # pixels of a shown image, at most


def mistakes(root: Path, params: Params, both: facts.Pair, test: np.ndarray) -> dict[str, Any]:
    """The most confident mistakes on the test set, each with its Grad-CAM heat, or the reason why there is no heat."""
    found = facts.mistakes(both.new, test, MISTAKES)
    wrong = int((both.new.predicted[test] != both.new.targets[test]).reshape(len(test), -1).any(axis=1).sum())
    if not found:
        return {"mistakes": [], "wrong": wrong, "no_heat": ""}
    pixels = _pixels(root, params, [both.ids[one.place] for one in found])
    heat, why = _heat(root, pixels, [one.asked for one in found], [both.ids[one.place] for one in found])
    doubtful = _doubtful(root)
    tiles = []
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
                "about": both.new.classes[one.asked],
                "doubtful": both.ids[one.place] in doubtful,
            }
        )
    return {"mistakes": tiles, "wrong": wrong, "no_heat": why}


def _heat(root: Path, pixels: np.ndarray, classes: Sequence[int], ids: Sequence[str]) -> tuple[np.ndarray | None, str]:
    """(M, S, S) heat of `classes` on `pixels`, and "" or the reason why there is none.

    The newest heat is cached. So a run that was killed while publishing, or in which only the gate's rules or the
    bundle changed, writes its report without loading torch.
    """
    from tasks.common import artifacts

    weights, head = (root / artifacts.FOLDER / "weights.safetensors", root / "artifacts/train_head/head.safetensors")
    about = read_json(root / artifacts.FOLDER / "model.json")
    of = [sha256_file(weights), sha256_file(head), sha256_bytes(pixels.tobytes()), list(classes), about]
    key = content_key(*of, code_version("flows.release_report.images"))
    file = cache_dir("heat", root) / "newest.parquet"
    found, heat = _cached_heat(file, key, pixels.shape[:3])
    if not found:
        heat = _grad_cam(root, pixels, classes)
        rows = {"id": ids, "heat": [one.tobytes() for one in heat]} if heat is not None else {"id": [], "heat": []}
        schema = pa.schema({"id": pa.string(), "heat": pa.binary()}, metadata={"key": key})
        with suppress(OSError), atomic_path(file) as temporary:  # after a full disk, the next report computes it again
            pq.write_table(pa.table(rows, schema=schema), temporary, write_page_checksum=True)
    why = f"{about['backbone']} has no map of places: where it looked cannot be shown." if heat is None else ""
    return heat, why


def _cached_heat(file: Path, key: str, shape: tuple[int, ...]) -> tuple[bool, np.ndarray | None]:
    """(is the result for `key` in `file` and undamaged?, its heat or None if the model has none)."""
    with suppress(OSError, ValueError):  # missing or damaged: compute it again
        table = pq.ParquetFile(file, page_checksum_verification=True).read()
        if (table.schema.metadata or {}).get(b"key") == key.encode():
            whole = np.frombuffer(b"".join(table["heat"].to_pylist()), np.float32)
            return True, whole.reshape(shape) if len(table) else None
    return False, None


def _grad_cam(root: Path, pixels: np.ndarray, classes: Sequence[int]) -> np.ndarray | None:
    from tasks.models import grad_cam, stage1
    from tasks.models.head import read_head

    model, about = stage1.load(root)
    head = read_head(root)
    return grad_cam.grad_cam(model, about, head.weight, head.bias, pixels, classes)


def _doubtful(root: Path) -> set[str]:
    """Ids of held-out images whose given label is more probably wrong than right, as judged by `clean`."""
    cleaned = pq.read_table(root / "artifacts/clean/labels.parquet", columns=["id", "split", "is_issue"])
    return set(cleaned.filter(pc.and_(cleaned["is_issue"], pc.not_equal(cleaned["split"], "train")))["id"].to_pylist())


def issues(root: Path, params: Params) -> dict[str, Any]:
    """The most doubtful labels with their images, and the number of each action."""
    shown, counts = facts.label_issues(root, ISSUES)
    if shown:
        pixels = _pixels(root, params, [row["id"] for row in shown])
        for row, image in zip(shown, pixels, strict=True):
            row["image"] = data_uri(image)
    return {"issues": shown, "issue_counts": counts}


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
    for row in [*tiles, *at_ingest]:
        reasons[row["reason"]] = reasons.get(row["reason"], 0) + 1
    return {
        "quarantine": tiles[:LISTED],
        "refused": at_ingest[:LISTED],
        "quarantined": len(tiles) + len(at_ingest),
        "reasons": sorted(reasons.items(), key=lambda one: (-one[1], one[0])),
        "excluded": result["excluded"],
    }
