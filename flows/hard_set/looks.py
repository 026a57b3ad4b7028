"""How often the hard set and the test split were asked, and how often they may be."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.publishing.asked_sets import asked_sets, count_looks
from flows.publishing.history import open_project
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, read_columns, read_tombstones
from tasks.gate.looks import Looks, measure_looks
from tasks.releases.looks import Look, read_looks


def set_looks(root: Path) -> list[Looks]:
    """The looks at today's hard set and test split; [] without a data set. Images count whether labelled or not."""
    data, params = root / "data", load_params(root / "params.yaml")
    if not (data / "dataset.json").is_file():
        return []
    shards = live_shards(data, read_tombstones(root))
    tables = [read_columns(shard.path, ["id", "split", "batch", "label"]) for shard in shards]
    if not tables:
        return []
    rows = pa.concat_tables(tables)
    rows = rows.filter(pc.is_valid(rows["label"])).select(["id", "split", "batch"])
    asked = count_looks(asked_sets(root, rows), ledger(root))
    return [measure_looks(one, params.gate.look_margin) for one in asked]


def ledger(root: Path) -> list[Look]:
    """Every look, newest first."""
    return read_looks(open_project(root)[1].store)[::-1]


def status_lines(root: Path) -> list[str]:
    """What `evergreen status` says: nothing while each set bears its looks, or was never asked."""
    if not ledger(root):
        return []
    return [one.sentence() for one in set_looks(root) if one.missing]
