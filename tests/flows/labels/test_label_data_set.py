"""`evergreen label FILE` with samples of the data set: one batch and one commit, or a named refusal."""

import csv
import shutil

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.people import read_words
from flows.production.labels import take_labels
from tasks.common.params import load_params
from tasks.dataset.annotation_files import annotation_batches
from tests.support.checkout import git
from tests.support.live_project import make, samples


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make(tmp_path_factory.mktemp("labels"))


@pytest.fixture
def root(made, tmp_path):
    return shutil.copytree(made, tmp_path / "main", symlinks=True)


def table(path, *rows, header=("id", "label")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def decision(root, name):
    return read_words(root, load_params(root / "params.yaml")).decisions[name]


def other(label: str) -> str:
    return "Bag" if label != "Bag" else "Trouser"


def test_labels_of_the_data_set_by_id_and_start_of_an_id_are_one_batch_and_one_commit(root, tmp_path):
    (one, label), (two, second), *_ = samples(root)
    before = git(root, "rev-list", "--count", "HEAD")
    file = table(tmp_path / "l.csv", (one, other(label)), (two[:12], other(second)))
    found = take_labels(root, file, annotator="ann")
    assert (found.corrected.added, found.refused, found.kept) == (2, [], 0)
    assert len(annotation_batches(root / "data")) == 1
    assert int(git(root, "rev-list", "--count", "HEAD")) == int(before) + 1
    assert decision(root, two).label == second  # one vote against the label first given: a tie
    again = take_labels(root, file, annotator="ann")
    assert (again.corrected.added, again.corrected.repeated) == (0, 2)
    take_labels(root, file, annotator="bob")
    assert decision(root, two).label == other(second)
    assert decision(root, one).confirmed


def test_a_path_that_names_no_sample_is_refused_and_the_id_beside_it_counts(root, tmp_path):
    (one, label), *_ = samples(root)
    rows = [("no/such.png", "", "Bag"), ("no/such.png", one, other(label))]
    found = take_labels(root, table(tmp_path / "m.csv", *rows, header=("path", "id", "label")), reviewer=True)
    assert len(found.refused) == 1
    assert "line 2: " in found.refused[0]
    assert found.corrected.added == 1
    assert decision(root, one).label == other(label)


def test_a_reviewers_file_overrides_the_votes_and_excludes(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    (one, label), (two, _), *_ = samples(root)
    file = table(
        tmp_path / "l.csv",
        (one, other(label), "", "a scratch"),
        (two, "", "x", "out of focus"),
        ("f" * 64, "Bag", "", ""),
        ("f" * 64, "", "x", ""),
        (one, "Spaceship", "", ""),
        header=("id", "label", "exclude", "comment"),
    )
    result = CliRunner().invoke(app, ["label", str(file), "--reviewer", "--annotator", "eve"])
    assert result.exit_code == 0, result.output
    assert "data set: took 2 answers about samples" in result.output
    assert "refused l.csv line 4, line 5: 'ffff" in result.output
    assert "not in the production log or the data set" in result.output
    assert "line 6: 'Spaceship' is not a class yet; --new-classes accepts it" in result.output
    corrected = decision(root, one)
    assert (corrected.label, corrected.rule, corrected.deciding[0]["why"]) == (other(label), "reviewer", "a scratch")
    assert decision(root, two).excluded
    useless = table(tmp_path / "none.csv", ("f" * 64, "Bag"))
    assert CliRunner().invoke(app, ["label", str(useless)]).exit_code == 1


def test_nothing_of_the_data_set_is_taken_without_ingest(root, tmp_path):
    (one, label), *_ = samples(root)
    found = take_labels(root, table(tmp_path / "l.csv", (one, other(label))), ingest=False)
    assert found.corrected is None
    assert "is not in the production log" in found.refused[0]
