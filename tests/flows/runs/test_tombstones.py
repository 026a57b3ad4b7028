"""What a run tombstones, for how long, and that every refusal that leans on a tombstone names the way back."""

from pathlib import Path

import pytest
import yaml

from flows.publishing import run_records
from flows.publishing.outcomes import Ending
from flows.repo.git import git
from flows.repo.run_inputs import current_inputs
from tasks.common.errors import BatchRefused, StageInputError
from tasks.common.files import write_json
from tasks.common.params import load_params
from tasks.dataset.shards import undo_text
from tasks.stages import inspect
from tests.support import versions_project
from tests.support.versions_project import store

NEW, LIVE = "b-000000000009", "b-000000000001"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return versions_project.copy(tmp_path / "project")


def refuse(root: Path, batch: str) -> str:
    """As the run does whose stage validate refuses `batch`; returns what it says."""
    from flows.repo.progress import Progress
    from flows.runs.retrain import Run, _tombstone

    run = Run(root, load_params(root / "params.yaml"), store(root), "run-9", "by hand", "ann", Progress(root, []))
    return _tombstone(run, BatchRefused(batch, ["60 of 240 rows are quarantined"]))


def change(root: Path, section: str, key: str, value: object) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text())
    params[section][key] = value
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    git(root, "commit", "--quiet", "-am", "a setting")


@pytest.mark.parametrize(
    ("section", "key", "value"), [("data", "classes", ["cat"]), ("validate", "max_quarantined", 0.5)]
)
def test_a_refusal_lasts_as_long_as_the_settings_that_it_was_made_under(root: Path, section, key, value):
    before, _, _ = current_inputs(root)
    said = refuse(root, NEW)
    assert f"evergreen tombstone {NEW} --undo" in said
    key_, stones, _ = current_inputs(root)
    assert list(stones) == [NEW]
    assert key_ != before
    change(root, "train_head", "seed", 7)
    assert list(current_inputs(root)[1]) == [NEW]  # not what a batch is judged by
    change(root, section, key, value)
    assert current_inputs(root)[1] == {}  # so the next run judges it again
    refuse(root, NEW)  # and refuses it again
    assert list(current_inputs(root)[1]) == [NEW]
    change(root, "validate", "max_null_labels", 0.4)
    assert current_inputs(root)[1] == {}
    store(root).tombstone(NEW, "a person has looked", "ann")
    change(root, "validate", "max_null_labels", 0.3)
    refuse(root, NEW)
    assert current_inputs(root)[1][NEW]["why"] == "a person has looked"


def test_a_batch_that_a_run_has_accepted_is_never_tombstoned_by_a_run(root: Path):
    said = refuse(root, LIVE)  # in the data of the live version
    assert "An earlier run accepted this batch" in said
    assert f"evergreen tombstone {LIVE} --why" in said
    accepted = {"passed": True, "batches": [{"batch": NEW, "judged": True}, {"batch": "b-other", "judged": False}]}
    write_json(root / "artifacts/validate/result.json", accepted)
    run_records.record(store(root), root, "run-8", Ending(outcome="rejected", sentence="worse"))
    assert store(root).run("run-8")["accepted"] == [NEW]
    refuse(root, NEW)
    assert store(root).tombstones() == {}
    refuse(root, "b-other")
    assert list(store(root).tombstones()) == ["b-other"]
    write_json(root / "artifacts/validate/result.json", accepted | {"passed": False})
    run_records.record(store(root), root, "run-7", Ending(outcome="refused", sentence="bad"))
    assert store(root).run("run-7")["accepted"] == []


def test_a_refusal_for_lack_of_data_names_the_tombstones_and_their_undo(root: Path):
    stones = {f"b-{number:012d}": {"why": "flipped", "at": "2026-05-03", "by": "ann"} for number in (1, 2, 3)}
    write_json(root / "tombstones.json", stones)
    params = load_params(root / "params.yaml")
    with pytest.raises(StageInputError) as error:
        inspect.run(root, images=params.images, inspect=params.inspect)
    for batch in stones:
        assert f"Batch {batch} is tombstoned (ann, 2026-05-03: flipped)" in str(error.value)
        assert f"evergreen tombstone {batch} --undo --why" in str(error.value)
    assert undo_text({}) == ""
    assert "4 more are tombstoned" in undo_text({f"b-{n}": {} for n in range(9)})
