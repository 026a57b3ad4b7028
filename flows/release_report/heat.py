"""Grad-CAM heat of the shown mistakes, computed once per model and images.

M shown images, S the side of the model's input. A module of its own, because its cache is keyed by its code.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.common import artifacts
from tasks.common.code import code_version
from tasks.common.files import content_key, read_json, sha256_bytes, sha256_file
from tasks.common.paths import cache_dir
from tasks.common.sealed import read_sealed, sealed_path


def cached_heat(
    root: Path, pixels: np.ndarray, classes: Sequence[int], ids: Sequence[str]
) -> tuple[np.ndarray | None, str]:
    """(M, S, S) heat of `classes` on `pixels`, and "" or the reason why there is none.

    The newest heat is cached. So a run that was killed while publishing, or in which only the gate's rules or the
    bundle changed, writes its report without loading torch.
    """
    weights, head = artifacts.network_weights(root), root / artifacts.HEAD_FOLDER / "head.safetensors"
    about = read_json(root / artifacts.FOLDER / "model.json")
    of = [sha256_file(weights), sha256_file(head), sha256_bytes(pixels.tobytes()), list(classes), about]
    key = content_key(*of, code_version("flows.release_report.heat"))
    file = cache_dir("heat", root) / "newest.parquet"
    found, heat = _read_heat(file, key, pixels.shape[:3])
    if not found:
        heat = _grad_cam(root, pixels, classes)
        rows = {"id": ids, "heat": [one.tobytes() for one in heat]} if heat is not None else {"id": [], "heat": []}
        schema = pa.schema({"id": pa.string(), "heat": pa.binary()}, metadata={"key": key})
        with suppress(OSError), sealed_path(file) as temporary:  # after a full disk, the next report computes it again
            pq.write_table(pa.table(rows, schema=schema), temporary)
    why = f"{about['backbone']} has no map of places: where it looked cannot be shown." if heat is None else ""
    return heat, why


def _read_heat(file: Path, key: str, shape: tuple[int, ...]) -> tuple[bool, np.ndarray | None]:
    """(is the result for `key` in `file` and undamaged?, its heat or None if the model has none)."""
    if (content := read_sealed(file)) is not None:
        table = pq.read_table(pa.BufferReader(content))
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
