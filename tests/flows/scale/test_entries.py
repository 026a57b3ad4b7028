"""Which cache entries a training's workers are sent, where they do not see the project's folder."""

from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from flows.scale import entries
from flows.scale.stages import needs_this_machine
from tasks.common.artifacts import ACCEPTED, NETWORK
from tasks.common.params import TrainBackboneParams, load_run_params
from tests.support import small_project

SIDE = small_project.SIZE


def with_pending_change(root: Path) -> Path:
    """A project whose network is trained on other rows than its head: those that lie in "train" and "calibration"."""
    small_project.copy(root)
    rows = pq.read_table(root / ACCEPTED)
    (root / NETWORK).mkdir()
    shard = rows.schema.get_field_index("shard")
    rows = rows.set_column(shard, rows.schema.field(shard), pc.binary_join_element_wise(rows["split"], "parquet", "."))
    pq.write_table(rows, root / NETWORK / ACCEPTED.name)
    return root


def test_a_training_is_sent_the_rows_of_the_network_and_what_its_tuning_reads(tmp_path):
    root = with_pending_change(tmp_path)
    params = load_run_params(root / "params.yaml")

    def sent(tuning: str) -> set[tuple[str, str, int]]:
        section = params.train_backbone.model_copy(update={"tuning": tuning, "augment": ["resized_crop"]})
        units = entries.of_training(root, params.model_copy(update={"train_backbone": section}))
        return {(unit.kind, unit.shard, unit.images.resolution) for unit in units}

    full = sent("full")
    assert {shard for _, shard, _ in full} == {"train.parquet", "calibration.parquet"}
    assert ("pixels", "train.parquet", SIDE) not in full  # decoded larger, for crops
    assert sent("auto") - full == {("pixels", "train.parquet", SIDE)}


@pytest.mark.parametrize(
    "changes",
    [
        {"self_supervised_epochs": 1},
        {"distill": {"teachers": ["a" * 64]}},
        {"start": "champion", "start_bundle": "a" * 64},
    ],
)
def test_what_only_this_machine_has_is_trained_on_this_machine(changes):
    section = TrainBackboneParams.model_validate(changes)
    assert needs_this_machine(section, shared=True)
    assert not needs_this_machine(section, shared=False)  # workers see the cache
    assert not needs_this_machine(
        TrainBackboneParams(start_bundle="a" * 64), shared=True
    )  # a pin that no setting asks for
