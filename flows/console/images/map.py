"""The map of images: at most 2,000 of those that fit, placed by their stored features, computed once.

.evergreen/console/maps/<key>.json   what the map of one selection shows; the newest ones stay
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from flows.console.images.features import plane, read_features
from flows.console.images.view import View
from flows.console.index.facets import LOGGED
from flows.console.index.index import ImageRow, Index
from tasks.common.files import content_key, write_json
from tasks.common.params import Params
from tasks.common.paths import state_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect, read_rebuildable

MOST = 2_000  # points
FILES = 200  # of the production log that are read for one map
KEPT = 50  # maps


def points(root: Path, params: Params, index: Index, view: View) -> dict:
    """{"points": [[id, x, y, colour], ...], "names": of the colours, "said": a sentence}; x and y are in 0..1.

    Images of data/ and answers have features of different networks: a map shows one kind, whichever fits more often.
    """
    rows, total, logged = _sample(index, view)
    key = content_key("map", 1, [row.row for row in rows], [row.facets["predicted"] for row in rows])
    file = _folder(root) / f"{key[:32]}.json"
    found = read_rebuildable(file, lambda about: expect(about, dict) if about["points"] is not None else None)
    if found is None:
        found = _place(root, params, rows, total, logged)
        write_json(file, found)
        _prune(file.parent)
    return found


def _sample(index: Index, view: View) -> tuple[list[ImageRow], int, bool]:
    """(at most MOST rows, rows that fit, whether they are answers); the same rows for the same index."""
    columns = index.columns()
    good = columns.fitting(view.filters)
    code = columns.names["origin"].index(LOGGED) if LOGGED in columns.names["origin"] else -1
    answers = columns.codes["origin"] == code
    logged = int((good & answers).sum()) > int((good & ~answers).sum())
    good &= answers == logged
    numbers, rng = columns.row[good], np.random.default_rng(0)
    if logged:  # rows of few files: each is opened
        file = columns.file[good]
        files = rng.permutation(np.unique(file))[:FILES]
        of_files = numbers[np.isin(file, files)]
    else:
        of_files = numbers
    chosen = of_files[np.sort(rng.permutation(len(of_files))[:MOST])]
    rows = index.rows(chosen.tolist())
    return rows, len(numbers), logged


def _place(root: Path, params: Params, rows: list[ImageRow], total: int, logged: bool) -> dict:
    placed, features = read_features(root, params, rows)
    names = [name for name, _ in _common([_colour(row) for row in placed])]
    colours = {name: code for code, name in enumerate(names)}
    where = plane(features) if placed else np.empty((0, 2))
    found = [
        [
            row.id,
            round(float(x), 3),
            round(float(y), 3),
            colours[row.facets["predicted"] or row.facets["true"] or "none"],
        ]
        for row, (x, y) in zip(placed, where, strict=True)
    ]
    kind = "answers of production" if logged else "images of data/"
    if not found:
        said = f"No features of these {kind} are stored here: a run computes those of data/, a model logs its own."
    else:
        said = f"{len(found):,} of {total:,} {kind}, coloured by prediction. Those that look alike lie together."
    return {"points": found, "names": names, "said": said}


def _colour(row: ImageRow) -> str:
    return row.facets["predicted"] or row.facets["true"] or "none"


def _common(names: list[str]) -> list[tuple[str, int]]:
    counts: dict[str, int] = defaultdict(int)
    for name in names:
        counts[name] += 1
    return sorted(counts.items(), key=lambda one: (-one[1], one[0]))


def _folder(root: Path) -> Path:
    folder = state_dir(root) / "console" / "maps"
    make_folder(folder)
    return folder


def _prune(folder: Path) -> None:
    for old in sorted(folder.glob("*.json"), key=lambda file: file.stat().st_mtime_ns)[:-KEPT]:
        old.unlink(missing_ok=True)


def as_json(found: dict) -> bytes:
    """The map for the script."""
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()
