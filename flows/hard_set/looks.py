"""How often the hard set and the test split were asked, and how often they may be."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from flows.publishing.asked_sets import NAMES, asked_sets, count_looks
from flows.publishing.history import open_project
from tasks.common.params import load_params
from tasks.dataset.shards import live_shards, read_tombstones
from tasks.gate.looks import Looks, measure_looks
from tasks.labels.effective import effective_samples
from tasks.labels.taxonomy import read_taxonomy
from tasks.releases.looks import Look, read_looks


def set_looks(root: Path) -> list[Looks]:
    """The looks at today's hard set and test split, of images with a label that counts; [] without a data set."""
    data, params = root / "data", load_params(root / "params.yaml")
    if not (data / "dataset.json").is_file():
        return []
    stones = read_tombstones(root)
    rows = effective_samples(data, read_taxonomy(data), stones, params.labels.consensus)
    rows = rows.filter(pc.and_(pc.is_valid(rows["label"]), pc.is_in(rows["split"], pa.array(list(NAMES)))))
    batch_of = {shard.name: shard.batch for shard in live_shards(data, stones)}
    batch = pa.array([batch_of[name] for name in rows["shard"].to_pylist()], pa.string())
    asked = count_looks(asked_sets(root, rows.append_column("batch", batch)), ledger(root))
    return [measure_looks(one, params.gate.look_margin) for one in asked]


def ledger(root: Path) -> list[Look]:
    """Every look, newest first."""
    return read_looks(open_project(root)[1].store)[::-1]


def status_lines(root: Path) -> list[str]:
    """What `evergreen status` says: nothing while each set bears its looks, or was never asked."""
    if not ledger(root):
        return []
    return [one.sentence() for one in set_looks(root) if one.missing]
