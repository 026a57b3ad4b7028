"""Why a run's model makes its mistakes: on real images with planted wrong labels."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from flows.labels.mistakes import found as kept
from flows.labels.mistakes.gather import find_mistakes, sampled
from flows.labels.mistakes.of_run import wrong_in_production
from flows.publishing.recorded_run import open_run
from monitoring.log.production_log import open_log
from tasks.common.artifacts import training_rows
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.models import stage1
from tasks.releases.store import open_store
from tests.support import drift_windows, mistaken_project, small_project
from tests.support.late_labels import late_labels
from tests.support.mistaken_project import RUN


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    return mistaken_project.copy(tmp_path_factory.mktemp("mistakes") / "tree")


@pytest.fixture(scope="module")
def found(tree) -> kept.Found:
    return find_mistakes(tree, load_params(tree / "params.yaml"), "run-1", 9)


def test_the_labels_that_taught_the_mistakes_are_named(tree, found):
    wrong = mistaken_project.wrong_ids(tree)
    images, mistakes = found.counts["test"]
    assert images == 36
    assert len(found.mistakes) == mistakes > 0
    assert found.rows == 60
    planted = [one for one in found.mistakes if (one.truth, one.answer) == ("Trouser", "Bag")]
    assert len(planted) > mistakes / 2
    for one in planted:
        assert one.where == "test"
        assert one.repeated
        assert (one.taught[0].batch, one.taught[0].label) == ("b-1", "Bag")
        assert len(one.near) == 9
    named = [teacher.id in wrong for one in planted for teacher in one.taught[:3]]
    assert sum(named) / len(named) > 0.5, "12 of 60 labels are wrong, and they taught it"


def test_the_changes_are_wrong_labels_and_help(tree, found):
    wrong = mistaken_project.wrong_ids(tree)
    assert len(found.fixes) == 9
    assert len({fix.id for fix in found.fixes} & wrong) >= 8
    assert all(fix.to == "Trouser" for fix in found.fixes if fix.id in wrong)
    assert found.brings.images == 36
    assert found.brings.chosen_by == 48
    assert found.brings.after > found.brings.before
    assert "these 9" in found.advice()
    assert "when the head is fitted again" in found.advice()


def test_what_was_found_is_kept_and_read_again(tmp_path, found):
    for number in range(kept.KEEP + 2):
        kept.keep(tmp_path, found.model_copy(update={"run": f"run-{number:02}"}))
    assert kept.read(tmp_path, "run-00") is None, "the oldest are deleted"
    assert kept.newest(tmp_path) == found.model_copy(update={"run": f"run-{kept.KEEP + 1:02}"})
    kept.file_of(tmp_path, "run-21").write_text("{")
    assert kept.read(tmp_path, "run-21") is None


def test_of_too_many_training_images_random_ones_stand_for_all():
    table = pa.table({"id": [str(number) for number in range(100)]})
    some = [int(name) for name in sampled(table, 10)["id"].to_pylist()]
    assert len(set(some)) == 10
    assert some == sorted(some)
    assert some != list(range(10))
    assert sampled(table, 100) is table


def test_an_adopted_model_has_no_training_images(tmp_path):
    params = load_params(mistaken_project.copy(tmp_path / "tree") / "params.yaml")
    with pytest.raises(EvergreenError, match="its training images are not known"):
        find_mistakes(tmp_path, params, "run-1", 9)


def test_it_says_when_nothing_helps(found):
    worse = found.brings.model_copy(update={"after": found.brings.before - 0.01, "verdict": "nothing helps"})
    assert found.model_copy(update={"brings": worse}).advice().startswith("Nothing helps: relabelling")
    assert found.model_copy(update={"brings": None, "fixes": []}).advice().startswith("Nothing helps: no training")


def test_wrong_answers_of_production_are_explained_too(tmp_path):
    root, bundle = mistaken_project.with_run(tmp_path), "cd" * 32
    params, rows = load_params(root / "params.yaml"), training_rows(root)
    trousers = [row for row, name in enumerate(rows["test"]["label"].to_pylist()) if name == "Trouser"]
    x = stage1.stage1_features(root, rows["test"], params.images)[np.array(trousers)].astype(np.float32)
    count, log = len(trousers), open_log(root, params)
    table = drift_windows.window_table(0, count, small_project.CLASSES)
    answered = {"bundle": [bundle] * count, "prediction": ["Bag"] * count, "features": x.tolist()}
    answered["at"] = [datetime.now(UTC) - timedelta(days=1)] * count
    for name, values in answered.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, table.schema.field(name), pa.array(values, table.schema.field(name).type))
    log.append(table)
    ids = table["id"].to_pylist()
    right = ["Trouser"] * (count - 1) + ["Bag"]
    given = {"id": ids, "at": [datetime.now(UTC)] * count, "annotator": ["ann"] * count, "label": right}
    log.add_labels(late_labels(given | {"role": ["annotator"] * count}))
    releases = open_store(params.store, root)
    releases.change_run(RUN, lambda record: record | {"bundle": bundle})
    run = open_run(root, RUN)
    asked = wrong_in_production(root, log, run, root, params)
    assert asked.images == count
    assert set(asked.wrong.ids) == set(ids[:-1]), "the last answer was right"
    found = find_mistakes(root, params, RUN, 9, asked)
    assert found.counts["production"] == (count, count - 1)
    mine = [one for one in found.mistakes if one.where == "production"]
    assert {one.id for one in mine} == set(ids[:-1])
    assert all((one.truth, one.answer) == ("Trouser", "Bag") for one in mine)
    wrong = mistaken_project.wrong_ids(root)
    named = [teacher.id in wrong for one in mine for teacher in one.taught[:3]]
    assert sum(named) / len(named) > 0.5
    releases.change_run(RUN, lambda record: record | {"bundle": "ef" * 32})
    assert wrong_in_production(root, log, open_run(root, RUN), root, params) is None, "of another model"
