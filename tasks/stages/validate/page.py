"""Renders the page of `validate`: one HTML file without scripts that loads nothing.

Labels, file names and reasons come from outside. So Jinja's autoescape escapes every value, and a content security
policy forbids scripts.
"""

import base64
import io
from pathlib import Path

import pyarrow as pa

from tasks.dataset.decode import Undecodable, decode
from tasks.dataset.shards import iter_bytes, read_paths

TILES = 24  # quarantined images shown
LISTED = 200  # quarantined rows listed; quarantine.parquet has all
BATCHES = 6  # of the newest, whose class mix is shown
SIDE = 96  # pixels of a shown image
TEMPLATES = Path(__file__).parent / "templates"


def render(report: dict, tiles: list[dict], evidence: list[dict] = ()) -> str:
    """HTML of result.json's `report` (tasks.stages.validate.table) and of the quarantined images in `tiles`.

    `evidence`: tiles of images that a batch was refused for, with their label as `detail`.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = _figure
    page = environment.get_template("validation.html")
    style = (TEMPLATES / "validation.css").read_text(encoding="utf-8")
    shown = {"tiles": tiles[:LISTED], "total": len(tiles), "evidence": evidence, "mix": _mix(report)}
    return page.render(report=report, style=style, **shown)


def _figure(value: float | None) -> str:
    """A number as a person reads it; "–" where there is none."""
    return "–" if value is None else f"{value:,.4g}" if isinstance(value, float) and value % 1 else f"{value:,.0f}"


def _mix(report: dict) -> dict:
    """Share of each class in the newest labelled batches: {batches: [{batch, rows}], rows: [(class, cells)]}.

    Classes are sorted by frequency. A cell is (count, share of the batch in percent).
    """
    shown = [batch for batch in report["batches"] if sum(batch["mix"].values())][-BATCHES:]
    totals = {batch["batch"]: sum(batch["mix"].values()) for batch in shown}
    names = {name: sum(batch["mix"].get(name, 0) for batch in shown) for batch in shown for name in batch["mix"]}
    rows = [
        (
            name,
            [(batch["mix"].get(name, 0), 100 * batch["mix"].get(name, 0) / totals[batch["batch"]]) for batch in shown],
        )
        for name in sorted(names, key=lambda name: (-names[name], name))
    ]
    return {"batches": [{"batch": batch["batch"], "rows": totals[batch["batch"]]} for batch in shown], "rows": rows}


def tiles(data: Path, rows: pa.Table, max_pixels: int) -> list[dict]:
    """One dict per row of `rows` (columns shard, row, status and any others), with its `image` and `path` added.

    The first TILES images that inspect could decode become data URIs. Bytes that it could not decode are not opened.
    """
    paths = read_paths(data, rows["shard"].to_pylist(), rows["row"].to_pylist())
    out = [row | {"image": None, "path": path} for row, path in zip(rows.to_pylist(), paths, strict=True)]
    showable = [tile for tile in out if tile["status"] == "ok"][:TILES]
    for shard in {tile["shard"] for tile in showable}:
        of_row = {tile["row"]: tile for tile in showable if tile["shard"] == shard}
        for row, content in iter_bytes(data / shard, sorted(of_row)):
            of_row[row]["image"] = _data_uri(content, max_pixels)
    return out


def _data_uri(content: bytes, max_pixels: int) -> str | None:
    try:
        image = decode(content, max_pixels)
    except Undecodable:
        return None
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
