"""Labels of production samples: from the log to people and back, into the log and the training data."""

import csv
import json
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.compute as pc
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.labels.exclude import correct, exclude, include
from flows.labels.undo import undo_newest
from flows.production import labels, reevaluate
from flows.production.corrections import log_corrections
from flows.production.labels import take_labels
from flows.production.queue_export import export_queue
from flows.production.score import score
from monitoring.live.labels import truths
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import enqueue, enqueue_audit, waiting
from tasks.common.errors import DataError
from tasks.common.params import ReviewParams, load_params
from tasks.dataset.shards import batches, read_columns
from tasks.labels.taxonomy import UNCHANGED
from tasks.releases.store import open_store
from tests.support.checkout import git
from tests.support.live_project import make, traffic
from tests.support.review_samples import NOON, answers


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A project whose log holds 60 scored images."""
    root = make(tmp_path_factory.mktemp("review"), replace={"budget: 100": "budget: 12"})
    score(root, str(traffic(root.parent / "traffic.parquet", 2, 60)))
    return root


@pytest.fixture
def root(scored, tmp_path):
    return shutil.copytree(scored, tmp_path / "main", symlinks=True)


def the_log(root) -> Log:
    return open_log(root, load_params(root / "params.yaml"))


def write_csv(path, *rows, header=("id", "label")):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def read_csv(path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def live_labels(root) -> dict:
    table = the_log(root).labels()
    return dict(zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True))


def test_queue_to_csv_to_labels_to_data_and_again(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    run = CliRunner()
    out = tmp_path / "out.csv"
    result = run.invoke(app, ["queue", "--pick", "2000", "--csv", str(out)])
    assert result.exit_code == 0, result.output
    assert "12 samples picked" in result.output
    rows = read_csv(out)
    assert len(rows) == 12
    assert all((tmp_path / row["image"]).read_bytes() for row in rows)
    for row in rows[:9]:
        row["label"] = "Trouser"
    write_csv(out, *(list(row.values()) for row in rows), header=rows[0].keys())
    result = run.invoke(app, ["label", str(out), "--annotator", "ann"])
    assert result.exit_code == 0, result.output
    assert "9 labels taken, 0 already known, 3 rows without a label" in result.output
    assert live_labels(root) == {row["id"]: "Trouser" for row in rows[:9]}
    assert len(waiting(the_log(root))) == 3
    batch = batches(root / "data")[-1]
    assert (batch.kind, batch.rows) == ("production", 9)
    (shard,) = batch.shards
    taken = read_columns(root / "data" / shard, ["id", "label", "origin", "source", "group", "taken_at"])
    assert set(taken["id"].to_pylist()) == {row["id"] for row in rows[:9]}
    assert set(taken["label"].to_pylist()) == {"Trouser"}
    assert set(taken["origin"].to_pylist()) == {"production"}
    assert taken["source"].null_count == taken["taken_at"].null_count == taken["group"].null_count == 0
    assert all(row["group"].startswith(f"{row['source']}, ") for row in taken.to_pylist())
    assert git(root, "show", "--stat", "--format=", "HEAD").split()[0] == "data.dvc"
    before = git(root, "rev-parse", "HEAD"), len(list(the_log(root).store.list("labels/")))
    result = run.invoke(app, ["label", str(out), "--annotator", "ann"])
    assert "0 labels taken, 9 already known" in result.output
    assert before == (git(root, "rev-parse", "HEAD"), len(list(the_log(root).store.list("labels/"))))


def test_only_audit_samples_measure_a_model_and_labels_say_how_they_were_picked(root, tmp_path):
    log = the_log(root)
    (pointer,) = open_store(load_params(root / "params.yaml").store, root).history()
    window = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    review = ReviewParams(audit_per_day=24, audit_per_source=0, budget=20, max_source_share=1.0)
    drawn = enqueue_audit(log, review, *window, pointer.bundle, "window 1")
    picks = enqueue(log, review, *window, "drift")
    asked_for = {entry.id for entry in (*drawn, *picks)}
    others = [name for name in log.window(*window, ["id"])[0]["id"].to_pylist() if name not in asked_for][:5]
    found = take_labels(root, write_csv(tmp_path / "l.csv", *((name, "Bag") for name in (*asked_for, *others))))
    assert found.kept == len(asked_for) + 5
    given = {row["id"]: (row["picked"], row["sampling_probability"]) for row in log.labels().to_pylist()}
    chance = float(np.float32(24 / 60))
    assert {given[entry.id] for entry in drawn} == {("audit", chance)}
    assert {given[entry.id] for entry in picks} == {("queue", None)}
    assert {given[name] for name in others} == {("feedback", None)}
    (shard,) = batches(root / "data")[-1].shards
    rows = read_columns(root / "data" / shard, ["id", "picked", "split", "sampling_probability"]).to_pylist()
    assert {row["picked"] for row in rows} == {"audit", "queue", "feedback"}
    assert {row["split"] for row in rows if row["picked"] != "audit"} == {"train"}
    assert {row["split"] for row in rows if row["picked"] == "audit"} >= {"calibration", "test"}
    assert {row["sampling_probability"] for row in rows if row["picked"] == "audit"} == {chance}


def test_unusable_rows_are_refused_with_reasons_and_the_others_taken(root, tmp_path):
    ids = the_log(root).window(*labels.EVER, ["id"])[0]["id"].to_pylist()
    file = write_csv(
        tmp_path / "labels.csv",
        (ids[0], "Bag"),
        ("f" * 64, "Bag"),
        (ids[1], "Spaceship"),
        ("", "Bag"),
        (ids[2], ""),
        ("../../etc", "Bag"),
        (ids[3], "Trouser"),
    )
    found = take_labels(root, file, ingest=False)
    assert (found.rows, found.left, found.kept) == (7, 1, 2)
    assert live_labels(root) == {ids[0]: "Bag", ids[3]: "Trouser"}
    reasons = "\n".join(found.refused)
    assert "line 3: 'ffff" in reasons
    assert "is not in the production log" in reasons
    assert "line 4: 'Spaceship' is not a class yet; --new-classes accepts it" in reasons
    assert "line 5: no id" in reasons
    assert len(found.refused) == 4
    assert (
        take_labels(root, write_csv(tmp_path / "new.csv", (ids[1], "Spaceship")), new_classes=True, ingest=False).kept
        == 1
    )


def test_a_changed_mind_replaces_the_annotators_label(root, tmp_path):
    (name,) = the_log(root).window(*labels.EVER, ["id"], limit=1)[0]["id"].to_pylist()
    take_labels(root, write_csv(tmp_path / "a.csv", (name, "Bag")), annotator="ann", ingest=False)
    take_labels(root, write_csv(tmp_path / "b.csv", (name, "Trouser")), annotator="ann", ingest=False)
    assert live_labels(root) == {name: "Trouser"}


def test_a_label_whose_time_cannot_be_read_counts_as_given_now(root, tmp_path):
    (name,) = the_log(root).window(*labels.EVER, ["id"], limit=1)[0]["id"].to_pylist()
    file = write_csv(tmp_path / "a.csv", (name, "Bag", "03.05.2026"), header=("id", "label", "labelled_at"))
    found = take_labels(root, file, ingest=False)
    assert (found.kept, found.untimed, found.refused) == (1, 1, [])
    assert found.lines()[0].startswith("1 labels taken")
    assert "1 times cannot be read (see data.time_format)" in found.lines()[1]
    assert datetime.now(UTC) - the_log(root).labels()["at"].to_pylist()[0] < timedelta(minutes=10)


def test_a_source_cannot_give_more_labels_than_its_quota(root, tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "QUOTA_FROM", 3)
    log = the_log(root)
    table = answers(60, source=["flood"] * 40 + [f"cam-{n % 5}" for n in range(20)])
    log.append(table)
    asked = enqueue(log, ReviewParams(budget=4, max_source_share=0.5), NOON, NOON + timedelta(hours=1), "a person")
    wanted = {entry.id for entry in asked if entry.source == "flood"}
    file = write_csv(tmp_path / "flood.csv", *((name, "Bag") for name in table["id"].to_pylist()))
    found = take_labels(root, file, ingest=False)
    sources = dict(zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True))
    given = [name for name in live_labels(root) if sources[name] == "flood"]
    others = 20 - (len(asked) - len(wanted))
    quota = max(q for q in range(40) if q <= int(0.25 * (others + q)))
    assert quota < 10 < int(0.25 * 60), "what the flood offers does not raise its limit"
    assert len(given) == quota + len(wanted)
    assert wanted <= set(given)
    assert any("its quota" in line for line in found.refused)
    (line,) = [line for line in found.lines() if "its quota" in line]
    assert f" and {len(found.refused) - 10} more: source" in line
    assert take_labels(root, file, ingest=False).kept == 0  # offered again, the quota is not open again
    assert take_labels(root, file, ingest=False, quota=False).kept == 40 - len(given)


def test_label_studio_there_and_back(root, tmp_path):
    out = tmp_path / "tasks.json"
    entries, picked = export_queue(root, pick_hours=2000, label_studio_file=out)
    assert len(entries) == len(picked) == 12
    tasks = json.loads(out.read_text())
    assert tasks[0]["data"]["image"].startswith("data:image/png;base64,")
    assert tasks[0]["predictions"][0]["result"][0]["value"]["choices"] == [
        {entry.id: entry.prediction for entry in entries}[tasks[0]["data"]["evergreen_id"]]
    ]
    assert '<Choice value="Bag"/>' in out.with_suffix(".xml").read_text()

    def annotated(task, choices, **more):
        result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": choices}}]
        return task | {"annotations": [{"result": result, "completed_by": {"email": "ann@example.org"}, **more}]}

    export = [
        annotated(tasks[0], ["Bag"], updated_at="2026-11-22T10:00:00Z"),
        annotated(tasks[1], ["Bag"], was_cancelled=True),
        tasks[2] | {"annotations": []},
        annotated(tasks[3], ["Trouser"]),
    ]
    (tmp_path / "export.json").write_text(json.dumps(export))
    found = take_labels(root, tmp_path / "export.json", ingest=False)
    assert (found.kept, found.left, found.refused) == (2, 2, [])
    first = the_log(root).labels().filter(pc.equal(the_log(root).labels()["label"], "Bag")).to_pylist()[0]
    assert (first["id"], first["annotator"]) == (tasks[0]["data"]["evergreen_id"], "ann@example.org")
    assert first["at"] == datetime(2026, 11, 22, 10, tzinfo=UTC)
    flat = [{"evergreen_id": tasks[4]["data"]["evergreen_id"], "image": "…", "label": "Bag", "annotator": 3}]
    (tmp_path / "min.json").write_text(json.dumps(flat))
    assert take_labels(root, tmp_path / "min.json", ingest=False).kept == 1


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "not json", '[{"data": {}, "annotations": [{"result": [{"type": "choices"}]}]}]']
)
def test_a_file_that_is_not_an_export_is_an_error(root, tmp_path, content):
    file = tmp_path / "export.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"cannot be read as an export of Label Studio"):
        take_labels(root, file)


def test_an_unusable_file_of_labels_is_an_error_that_says_what_is_expected(root, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        take_labels(root, tmp_path / "absent.csv")
    (tmp_path / "labels.doc").write_text("")
    with pytest.raises(DataError, match="expected labels as"):
        take_labels(root, tmp_path / "labels.doc")
    with pytest.raises(DataError, match="no column 'id'"):
        take_labels(root, write_csv(tmp_path / "c.csv", ("a", "b"), header=("name", "label")))


def test_thumbnails_count_for_accuracy_but_not_for_training(tmp_path):
    root = make(tmp_path, replace={"images: full": "images: thumbnail"})
    score(root, str(traffic(tmp_path / "t.parquet", 2, 4)))
    ids = the_log(root).window(*labels.EVER, ["id"])[0]["id"].to_pylist()
    found = take_labels(root, write_csv(tmp_path / "l.csv", *((name, "Bag") for name in ids)))
    assert (found.kept, found.without_image, found.ingested) == (4, 4, None)
    assert "only a thumbnail" in "\n".join(found.lines())
    assert len(batches(root / "data")) == 1


def test_a_source_cannot_put_a_formula_into_the_table(root, tmp_path):
    log = the_log(root)
    log.append(answers(5, source=["=cmd|' /C calc'!A0"] * 5))
    enqueue(log, ReviewParams(budget=5), NOON, NOON + timedelta(hours=1), "test")
    export_queue(root, csv_file=tmp_path / "out.csv")
    cells = [row["source"] for row in read_csv(tmp_path / "out.csv")]
    assert cells == ["'=cmd|' /C calc'!A0"] * 5


def test_a_production_sample_can_be_excluded_and_then_counts_for_nothing(root, tmp_path):
    first, second, *_ = answers_of(root)
    found = take_labels(root, write_csv(tmp_path / "l.csv", (first, "(exclude)"), (second, "Bag")), annotator="ann")
    assert (found.refused, found.kept) == ([], 2)
    assert truths(the_log(root).labels()).keys() == {second}
    again = take_labels(root, write_csv(tmp_path / "l.csv", (first, "(exclude)")), annotator="ann")
    assert (again.kept, again.repeated) == (0, 1)
    assert batches(root / "data")[-1].rows == 1


def test_what_people_correct_exclude_and_undo_in_the_data_set_counts_for_the_answer_too(root, tmp_path):
    log, (first, second, third, *_) = the_log(root), answers_of(root)
    take_labels(root, write_csv(tmp_path / "l.csv", *((name, "Bag") for name in (first, second, third))))
    assert log_corrections(root, log, UNCHANGED) == 0
    correct(root, first, "Trouser", "it has legs")
    exclude(root, [second], "blurred")

    def said() -> dict:
        log_corrections(root, log, UNCHANGED)
        return {name: one.label for name, one in truths(log.labels()).items()}

    assert said() == {first: "Trouser", third: "Bag"}
    assert log_corrections(root, log, UNCHANGED) == 0
    include(root, [second], "it is sharp")
    undo_newest(root, first, "no legs")
    assert said() == {first: "Bag", second: "Bag", third: "Bag"}


def answers_of(root) -> list[str]:
    window = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    return the_log(root).window(*window, ["id"])[0]["id"].to_pylist()


def test_what_was_picked_because_the_model_was_unsure_does_not_speak_for_a_rollback(root, tmp_path):
    log = the_log(root)
    (pointer,) = open_store(load_params(root / "params.yaml").store, root).history()
    window = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
    review = ReviewParams(audit_per_day=0, audit_per_source=0, budget=20, max_source_share=1.0)
    picks = enqueue(log, review, *window, "drift")
    rest = [name for name in answers_of(root) if name not in {entry.id for entry in picks}][:6]
    take_labels(root, write_csv(tmp_path / "l.csv", *((name, "Bag") for name in (*(e.id for e in picks), *rest))))
    found = reevaluate.labelled(log, *window, pointer.bundle, 1)
    assert set(found["id"].to_pylist()) == set(rest)
    drawn = enqueue_audit(log, ReviewParams(audit_per_day=20, audit_per_source=0), *window, pointer.bundle, "window 1")
    audit = {entry.id for entry in drawn}
    assert audit
    take_labels(root, write_csv(tmp_path / "l.csv", *((name, "Bag") for name in audit)))
    assert set(reevaluate.labelled(log, *window, pointer.bundle, len(audit))["id"].to_pylist()) == audit
    assert set(reevaluate.labelled(log, *window, pointer.bundle, len(audit) + 1)["id"].to_pylist()) == {*rest, *audit}
