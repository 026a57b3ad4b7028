"""Stage `validate` after changes of the classes: what the network reads, and what the stages after it do."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.common.errors import DataError
from tasks.common.files import write_json
from tasks.dataset import shards
from tasks.labels.changes import FOLDER, Change, label_state
from tasks.labels.storing import write_annotations
from tests.support.inspected_project import CLASSES, Project, fashion
from tests.support.shared import networks

LEAST = {"train": 3, "calibration": 1, "test": 1}


@pytest.fixture(scope="module")
def base() -> list[dict]:
    return fashion("base", each=30) + fashion("base", ("calibration", "test"), each=3)


@pytest.fixture
def project(tmp_path, base) -> Project:
    (tmp_path / "dvc.yaml").touch()
    networks(tmp_path)
    found = Project(tmp_path)
    found.add(base)
    return found


def change(project: Project, kind: str, old: str | list[str], new: str | list[str] = (), listed=None, **more) -> Change:
    data = project.root / "data"
    old, new = ([names] if isinstance(names, str) else names for names in (old, new))
    number = len(list((data / FOLDER).glob("*.json"))) + 1
    about = {"at": "2026-01-01", "by": "ann", "why": "", "state": label_state(data), "listed": listed}
    made = Change(number=number, kind=kind, old=old, new=new, **about, **more)
    write_json(data / FOLDER / f"{number:06d}-{made.id}.json", made.model_dump(mode="json"))
    return made


def say(project: Project, labels: dict[str, str]) -> None:
    """A person's labels: id -> label."""
    row = {"exclude": False, "annotator": "ann", "role": "reviewer", "at": datetime(2026, 1, 2, tzinfo=UTC)}
    row |= {"why": "", "model_version": None, "retracts": None}
    write_annotations(project.root / "data", [row | {"id": one, "label": label} for one, label in labels.items()])


def read(folder: Path) -> tuple[list[str], dict[str, str]]:
    table = pq.read_table(folder / "accepted.parquet")
    return json.loads((folder / "classes.json").read_text()), dict(
        zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True)
    )


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*.*")}


def names(project: Project) -> dict:
    return json.loads((project.root / "artifacts/validate/taxonomy.json").read_text())["names"]


def test_a_pending_merge_changes_nothing_that_the_network_reads(project, base):
    before = bytes_of(project.run() / "network")
    change(project, "merge", ["Sneaker", "Bag"], "thing")
    out = project.run()
    assert bytes_of(out / "network") == before
    classes, labels = read(out)
    assert classes == ["T-shirt/top", "Trouser", "thing"]
    expected = {row["id"]: "thing" if row["label"] in ("Sneaker", "Bag") else row["label"] for row in base}
    assert labels == expected
    assert names(project) == {"Bag": "thing", "Sneaker": "thing", "T-shirt/top": "T-shirt/top", "Trouser": "Trouser"}


def test_new_labels_settle_a_change(project, base):
    change(project, "rename", "Bag", "Sack")
    say(project, {base[0]["id"]: "Sack"})
    out = project.run()
    assert read(out / "network") == read(out)
    assert "Sack" in read(out)[0]
    assert names(project)["Sack"] == "Sack"


def test_a_merge_takes_in_what_was_too_rare_to_be_a_class(project, base):
    rare = next(row for row in project.samples if row["label"] == "Bag")
    rare["label"] = "Purse"
    out = project.run()
    assert rare["id"] not in read(out)[1]
    change(project, "merge", ["Purse", "Bag"], "Bag")
    out = project.run()
    assert rare["id"] not in read(out / "network")[1]
    assert read(out)[1][rare["id"]] == "Bag"


def test_votes_are_counted_again_in_the_names_of_today(project, base):
    """Original Trouser, one vote each for Sneaker and Bag: a tie, until the two are one class."""
    one = next(row["id"] for row in base if row["label"] == "Trouser")
    row = {"id": one, "exclude": False, "role": "annotator", "at": None, "why": "", "model_version": None}
    votes = [row | {"label": label, "annotator": label, "retracts": None} for label in ("Sneaker", "Bag")]
    write_annotations(project.root / "data", votes)
    change(project, "merge", ["Sneaker", "Bag"], "thing")
    out = project.run()
    assert (read(out / "network")[1][one], read(out)[1][one]) == ("Trouser", "thing")


def test_a_retired_class_is_left_out_and_counted(project, base):
    change(project, "retire", "Bag")
    out = project.run()
    classes, labels = read(out)
    assert "Bag" not in classes
    assert set(labels.values()) == set(CLASSES) - {"Bag"}
    bags = sum(row["label"] == "Bag" for row in base)
    assert json.loads((out / "result.json").read_text())["left_out"] == {"Bag": bags}
    assert "label 'Bag' was retired" in pq.read_table(out / "quarantine.parquet")["detail"].to_pylist()
    assert names(project)["Bag"] is None


def test_a_split_is_in_force_once_each_part_has_enough_images(project, base):
    before = bytes_of(project.run() / "network")
    change(project, "split", "Bag", ["Tote", "Purse"])
    out = project.run()
    assert bytes_of(out / "network") == before
    assert "Bag" in read(out)[0], "nobody has said yet which part each image is"
    bags = {split: [row["id"] for row in base if (row["label"], row["split"]) == ("Bag", split)] for split in LEAST}
    say(project, {one: "Tote" for split in LEAST for one in bags[split][: LEAST[split]]})
    classes, labels = read(project.run())
    assert "Bag" in classes
    assert labels[bags["test"][0]] == "Bag"
    say(project, {one: "Purse" for split in LEAST for one in bags[split][-LEAST[split] :]})
    out = project.run()
    classes, labels = read(out)
    assert {"Tote", "Purse"} <= set(classes)
    assert "Bag" not in classes
    assert labels[bags["test"][0]] == "Tote"
    assert bags["train"][10] not in labels
    details = set(pq.read_table(out / "quarantine.parquet")["detail"].to_pylist())
    assert details == {"label 'Bag' was split: a person has to say which of Purse, Tote it is"}


def test_undo_gives_every_label_back(project, base):
    before = bytes_of(project.run())
    made = change(project, "merge", ["Sneaker", "Bag"], "thing")
    change(project, "undo", [], [], undoes=made.id)
    after = bytes_of(project.run())
    assert {name: after[name] for name in before} == before


def test_listed_classes_must_agree_and_the_network_keeps_those_of_before(project, base):
    listed = ["Trouser", "Sneaker", "Bag"]
    before = bytes_of(project.run(classes=listed) / "network")
    change(project, "merge", ["Sneaker", "Bag"], "thing", listed=listed)
    with pytest.raises(DataError, match=r"data.classes lists 'Sneaker'.*\['Trouser', 'thing'\]"):
        project.run(classes=listed)
    out = project.run(classes=["Trouser", "thing"])
    assert bytes_of(out / "network") == before
    assert read(out)[0] == ["Trouser", "thing"]


def test_an_added_class_may_be_listed_before_it_has_images(project, base):
    listed = list(CLASSES)
    change(project, "add", [], "Hat", listed=listed)
    assert read(project.run(classes=[*listed, "Hat"]))[0] == listed


def test_a_group_is_written_for_calibrate(project):
    change(project, "group", ["Bag", "Sneaker"], "goods")
    out = project.run()
    assert json.loads((out / "taxonomy.json").read_text())["groups"] == {"goods": ["Bag", "Sneaker"]}


def test_a_class_too_small_after_a_change_is_refused_with_the_rule(project):
    change(project, "merge", ["Sneaker", "Bag", "Trouser", "T-shirt/top"], "thing")
    with pytest.raises(Exception, match=r"1 classes \['thing'\], at least 2 expected"):
        project.run()


def test_multi_label_names_are_merged_in_each_list(tmp_path):
    (tmp_path / "dvc.yaml").touch()
    networks(tmp_path)
    found = Project(tmp_path, "multilabel")
    rows = [row | {"label": sorted({row["label"], "Bag"})} for row in fashion("base", each=30)]
    rows += [row | {"label": [row["label"]]} for row in fashion("base", ("calibration", "test"), each=3)]
    found.add(rows)
    change(found, "merge", ["Sneaker", "Bag"], "thing")
    labels = read(found.run())[1]
    assert labels == {
        row["id"]: sorted({"thing" if name in ("Sneaker", "Bag") else name for name in row["label"]}) for row in rows
    }
    change(found, "split", "Trouser", ["Jeans", "Slacks"])
    assert shards.batches(tmp_path / "data")
    assert read(found.run())[0] == ["T-shirt/top", "Trouser", "thing"]
