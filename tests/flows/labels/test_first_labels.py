"""Labels suggested from class names: picked with an answer, shown as such, and no label until a person checks."""

import csv
import shutil

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.classes import plan_change, record_change
from flows.labels.data_queue import DataQueue
from flows.labels.first_labels import FirstLabels, most_certain
from flows.labels.pick_data import FOLDER, SUGGESTED, pick_data, picked
from tasks.active.pool import Pool
from tasks.active.samples import live_samples
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.labels.definitions import write_definition
from tasks.models import zero_shot
from tests.flows.labels.test_pick_data import CLASSES, class_free, params_of
from tests.support.clip_model import save_clip
from tests.support.live_project import commit_project
from tests.support.shared import once


def named(root) -> None:
    """A project with 120 images without labels, and two classes that nobody has used yet."""
    shutil.copytree(once("class-free", class_free), root, symlinks=True, dirs_exist_ok=True)
    commit_project(root)
    for name in CLASSES:
        record_change(root, plan_change(root, "add", [], [name], why="", by="Ann"))


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(once("class-free-named", named), tmp_path / "main", symlinks=True)


@pytest.fixture(scope="module")
def clip():
    return str(once("tiny-clip", save_clip))


def test_suggestions_wait_for_a_person_the_most_certain_first(root, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    out = tmp_path / "out.csv"
    run = CliRunner().invoke(app, ["queue", "--pick-data", "40", "--clip", clip, "--csv", str(out)])
    assert run.exit_code == 0, run.output
    params = params_of(root)
    found = picked(root)
    suggested = [one for one in found if one.why == SUGGESTED]
    assert f"{len(suggested)} with a label that CLIP suggests" in run.output
    assert {one.split for one in suggested} == {"train"}
    assert {(one.why, one.prediction) for one in found if one.split != "train"} == {("random", None)}
    assert [one.confidence for one in suggested] == sorted((one.confidence for one in suggested), reverse=True)
    assert all("not checked by a person" in one.because for one in suggested)

    samples = live_samples(root, params)
    assert samples["label"].null_count == len(samples)
    chosen = samples.filter(pa.compute.is_in(samples["id"], pa.array([one.id for one in suggested])))
    p = zero_shot.zero_shot(root, chosen, zero_shot.clip.find_clip(clip), dict.fromkeys(CLASSES, ""), params.images)
    by_id = dict(zip(chosen["id"].to_pylist(), p, strict=True))
    for one in suggested:
        assert (one.prediction, one.confidence) == (
            CLASSES[by_id[one.id].argmax()],
            pytest.approx(by_id[one.id].max(), abs=1e-4),
        )

    rows = list(csv.DictReader(out.read_text().splitlines()))
    shown = [row["id"] for row in rows if row["why"] == "suggested by CLIP"]
    assert shown == [one.id for one in suggested] == [one.id for one in DataQueue(root, params).entries][: len(shown)]
    assert {row["label"] for row in rows} == {""}


def test_words_about_a_class_and_prompts_change_the_suggestions(root, clip):
    params = params_of(root)
    samples = live_samples(root, params)

    def answers(prompts=()) -> list:
        shutil.rmtree(root / ".evergreen" / FOLDER, ignore_errors=True)
        found = pick_data(root, params, 40, samples, FirstLabels(root, params, clip, prompts))
        return [(one.id, one.prediction, one.confidence) for one in found if one.prediction]

    plain = answers()
    assert answers(["{} on a table"]) != plain
    write_definition(root / "data", CLASSES[0], "carried by hand", (), "2026-01-01T00:00:00+00:00", "Ann")
    assert answers() != plain


def test_each_class_is_among_the_suggestions():
    p = np.array([[0.99, 0.01], [0.9, 0.1], [0.95, 0.05], [0.4, 0.6], [0.2, 0.8]])
    pool = Pool(p, p, hashes=np.array([0, 1 << 20, (1 << 40) - 1, 1, (1 << 60) - 1], np.uint64))
    assert most_certain(pool, 2, 1.0) == [0, 4]
    assert most_certain(pool, 4, 1.0) == [0, 2, 4]  # rows 1 and 3 are near-duplicates of row 0
    assert most_certain(pool, 4, 1.0, seen=[(1 << 60) - 1]) == [0, 2]


def test_what_cannot_work_is_refused_before_any_work(root, clip, tmp_path):
    params = load_params(root / "params.yaml")
    several = params.model_copy(update={"data": params.data.model_copy(update={"task": "multilabel"})})
    for settings, name, prompts, message in (
        (several, clip, (), "one label per image"),
        (params, clip, ["a shoe"], "does not say where the class goes"),
        (params, str(tmp_path), (), "has no open_clip_config.json"),
    ):
        with pytest.raises(EvergreenError, match=message):
            FirstLabels(root, settings, name, prompts)
    shutil.rmtree(root / "data/annotations/taxonomy")
    with pytest.raises(EvergreenError, match="two class names or more, found 0: give them with `evergreen classes add"):
        FirstLabels(root, params, clip)
    assert picked(root) == []


def test_the_command_refuses_options_that_do_nothing(root, monkeypatch):
    monkeypatch.chdir(root)
    for options in (["--clip", "x"], ["--pick-data", "5", "--prompt", "{}"]):
        run = CliRunner().invoke(app, ["queue", *options])
        assert isinstance(run.exception, EvergreenError)
        assert "--clip MODEL goes with --pick-data" in str(run.exception)
