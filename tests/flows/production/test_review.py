"""From the log to the queue, to people, and back: labels are joined, checked, and become training data."""

import csv
import json
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from flows.cli.main import app
from flows.production import review
from flows.production.review import label, queue
from flows.production.score import score
from flows.services import web
from monitoring.log.production_log import Log, open_log
from monitoring.log.schema import late_labels_schema, log_schema
from monitoring.review import label_studio
from monitoring.review import page as review_page
from monitoring.review import queue as review_queue
from monitoring.review.queue import COLUMNS, Queued, enqueue, queued, select, waiting
from tasks.common.errors import DataError
from tasks.common.params import ReviewParams, load_params
from tasks.dataset.shards import batches, read_columns
from tasks.storage.local import LocalStore
from tests.support.checkout import git
from tests.support.live_project import make, traffic
from tests.support.small_project import image_bytes

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
RNG = np.random.default_rng(0)


def answers(count: int, **columns) -> pa.Table:
    """`count` unsure answers, unlike each other, with the given columns replaced."""
    rng = np.random.default_rng(1)
    found = {
        "id": [f"id-{n}" for n in range(count)],
        "at": [NOON + timedelta(seconds=n) for n in range(count)],
        "source": [f"cam-{n % 5}" for n in range(count)],
        "version": ["v0.1.0"] * count,
        "prediction": ["Bag"] * count,
        "confidence": [0.5] * count,
        "probabilities": list(rng.dirichlet([1, 1, 1], count).astype(np.float32)),
        "ood": rng.random(count).astype(np.float32),
        "features": list(rng.normal(size=(count, 16)).astype(np.float32)),
        "phash": rng.integers(0, 2**63, count, dtype=np.uint64),
        **columns,
    }
    schema = log_schema("multiclass")
    return pa.table([pa.array(found.get(f.name, [None] * count), f.type) for f in schema], schema=schema)


# --- select


def test_the_unsure_and_the_unfamiliar_come_first():
    probabilities = [[0.98, 0.01, 0.01]] * 100
    probabilities[7], probabilities[8] = [0.5, 0.49, 0.01], [0.4, 0.3, 0.3]
    ood = np.linspace(0, 0.1, 100)
    ood[9] = 5
    alike = [np.ones(16, np.float32)] * 100  # so that nothing else counts
    chosen = select(answers(100, probabilities=probabilities, ood=ood, features=alike), 3, 1.0, ())
    assert {"id-7", "id-9"} <= set(chosen)


def test_the_chosen_differ():
    features = np.repeat(np.eye(16, dtype=np.float32)[:4], 25, axis=0)  # four kinds of image
    chosen = select(answers(100, features=list(features)), 4, 1.0, ())
    assert {int(name[3:]) // 25 for name in chosen} == {0, 1, 2, 3}


def test_no_near_duplicates():
    phash = np.arange(100, dtype=np.uint64) % 8  # 3 bits: all of them near each other
    assert len(select(answers(100, phash=phash), 10, 1.0, ())) == 1
    assert select(answers(100, phash=phash), 10, 1.0, (), seen=[0]) == []


def test_a_flooding_source_gets_its_share_and_no_more():
    source = ["flood"] * 950 + [f"cam-{n % 5}" for n in range(50)]
    ood = np.r_[np.full(950, 9.0), np.zeros(50)]  # and it is the most unfamiliar of all
    chosen = select(answers(1000, source=source, ood=ood), 40, 0.25, ())
    count = Counter(source[int(name[3:])] for name in chosen)
    assert len(chosen) == 40
    assert count["flood"] == 10


def test_two_sources_may_fill_the_queue_one_may_too():
    assert len(select(answers(100, source=["a", "b"] * 50), 40, 0.25, ())) == 40
    assert len(select(answers(100, source=[None] * 100), 40, 0.25, ())) == 40


def test_never_what_is_known_unreadable_or_there_twice():
    table = answers(10, id=["same"] * 5 + [f"id-{n}" for n in range(5)], reason=[None] * 9 + ["truncated"])
    chosen = select(table, 10, 1.0, {"id-0", "id-1"})
    assert sorted(chosen) == ["id-2", "id-3", "same"]
    assert select(table.slice(0, 0), 10, 1.0, ()) == []


def test_broken_numbers_choose_without_error():
    features = RNG.normal(size=(20, 16)).astype(np.float32)
    features[3] = np.nan
    features[4] = np.inf
    ood = np.r_[np.nan, np.zeros(19)]
    assert len(select(answers(20, features=list(features), ood=ood), 20, 1.0, ())) == 20


def test_multilabel_uses_the_least_sure_class():
    probabilities = [[0.99, 0.01, 0.99]] * 20
    probabilities[3] = [0.99, 0.51, 0.01]
    table = answers(20, probabilities=probabilities, ood=np.zeros(20))
    field = pa.field("prediction", pa.list_(pa.string()))
    table = table.set_column(table.schema.get_field_index("prediction"), field, pa.array([["Bag"]] * 20, field.type))
    assert select(table, 1, 1.0, ()) == ["id-3"]


# --- the queue


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(LocalStore(tmp_path / "log"), "multiclass")


def test_a_sample_waits_until_it_is_labelled_and_is_asked_for_once(log):
    log.append(answers(100))
    window = (NOON, NOON + timedelta(hours=1))
    first = enqueue(log, ReviewParams(budget=10), *window, "drift in image.brightness")
    second = enqueue(log, ReviewParams(budget=10), *window, "again")
    assert len({entry.id for entry in [*first, *second]}) == 20
    assert {entry.because for entry in first} == {"drift in image.brightness"}
    assert {entry.why for entry in first} == {"uncertain", "unfamiliar"}
    row = {"id": first[0].id, "at": NOON, "annotator": "ann", "label": "Bag"}
    log.add_labels(pa.Table.from_pylist([row], schema=late_labels_schema("multiclass")))
    assert {entry.id for entry in waiting(log)} == {entry.id for entry in [*first[1:], *second]}
    log.store.create("queue/torn.json", b'[{"id"')
    assert len(queued(log)) == 20
    assert len(enqueue(log, ReviewParams(budget=1000, max_source_share=1), *window, "all")) == 80
    assert enqueue(log, ReviewParams(budget=10), *window, "nothing left") == []


# --- to people and back, in a real project


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
    taken = read_columns(root / "data" / shard, ["id", "label", "origin", "source", "taken_at"])
    assert set(taken["id"].to_pylist()) == {row["id"] for row in rows[:9]}
    assert set(taken["label"].to_pylist()) == {"Trouser"}
    assert set(taken["origin"].to_pylist()) == {"production"}
    assert taken["source"].null_count == taken["taken_at"].null_count == 0
    assert git(root, "show", "--stat", "--format=", "HEAD").split()[0] == "data.dvc"
    before = git(root, "rev-parse", "HEAD"), len(list(the_log(root).store.list("labels/")))
    result = run.invoke(app, ["label", str(out), "--annotator", "ann"])
    assert "0 labels taken, 9 already known" in result.output
    assert before == (git(root, "rev-parse", "HEAD"), len(list(the_log(root).store.list("labels/"))))


def test_rows_that_cannot_be_taken_are_refused_with_reasons_and_cost_no_other(root, tmp_path):
    ids = the_log(root).window(*review.EVER, ["id"])[0]["id"].to_pylist()
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
    found = label(root, file, ingest=False)
    assert (found.rows, found.left, found.kept) == (7, 1, 2)
    assert live_labels(root) == {ids[0]: "Bag", ids[3]: "Trouser"}
    reasons = "\n".join(found.refused)
    assert "line 3: 'ffff" in reasons
    assert "is not in the production log" in reasons
    assert "line 4: 'Spaceship' is not in data.classes" in reasons
    assert "line 5: no id" in reasons
    assert len(found.refused) == 4
    assert label(root, write_csv(tmp_path / "new.csv", (ids[1], "Spaceship")), new_classes=True, ingest=False).kept == 1


def test_a_changed_mind_replaces_the_annotators_label(root, tmp_path):
    (name,) = the_log(root).window(*review.EVER, ["id"], limit=1)[0]["id"].to_pylist()
    label(root, write_csv(tmp_path / "a.csv", (name, "Bag")), annotator="ann", ingest=False)
    label(root, write_csv(tmp_path / "b.csv", (name, "Trouser")), annotator="ann", ingest=False)
    assert live_labels(root) == {name: "Trouser"}


def test_a_source_that_floods_with_labels_is_held_to_its_quota(root, tmp_path, monkeypatch):
    monkeypatch.setattr(review, "QUOTA_FROM", 3)
    log = the_log(root)
    table = answers(60, source=["flood"] * 40 + [f"cam-{n % 5}" for n in range(20)])
    log.append(table)
    asked = enqueue(log, ReviewParams(budget=4, max_source_share=0.5), NOON, NOON + timedelta(hours=1), "a person")
    wanted = {entry.id for entry in asked if entry.source == "flood"}
    file = write_csv(tmp_path / "flood.csv", *((name, "Bag") for name in table["id"].to_pylist()))
    found = label(root, file, ingest=False)
    sources = dict(zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True))
    given = [name for name in live_labels(root) if sources[name] == "flood"]
    quota = int(0.25 * (60 - len(asked)))
    assert len(given) == quota + len(wanted)
    assert wanted <= set(given)
    assert any("its quota" in line for line in found.refused)
    assert label(root, file, ingest=False).kept == 0  # offered again, the quota is not open again
    assert label(root, file, ingest=False, quota=False).kept == 40 - len(given)


def test_label_studio_there_and_back(root, tmp_path):
    out = tmp_path / "tasks.json"
    entries, picked = queue(root, pick_hours=2000, label_studio_file=out)
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
    found = label(root, tmp_path / "export.json", ingest=False)
    assert (found.kept, found.left, found.refused) == (2, 2, [])
    first = the_log(root).labels().filter(pc.equal(the_log(root).labels()["label"], "Bag")).to_pylist()[0]
    assert (first["id"], first["annotator"]) == (tasks[0]["data"]["evergreen_id"], "ann@example.org")
    assert first["at"] == datetime(2026, 11, 22, 10, tzinfo=UTC)
    flat = [{"evergreen_id": tasks[4]["data"]["evergreen_id"], "image": "…", "label": "Bag", "annotator": 3}]
    (tmp_path / "min.json").write_text(json.dumps(flat))
    assert label(root, tmp_path / "min.json", ingest=False).kept == 1


@pytest.mark.parametrize(
    "content", ["{}", "[1]", "not json", '[{"data": {}, "annotations": [{"result": [{"type": "choices"}]}]}]']
)
def test_what_is_no_export_says_so(root, tmp_path, content):
    file = tmp_path / "export.json"
    file.write_text(content)
    with pytest.raises(DataError, match=r"cannot be read as an export of Label Studio"):
        label(root, file)


def test_files_that_are_no_labels_say_what_is_expected(root, tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        label(root, tmp_path / "absent.csv")
    (tmp_path / "labels.txt").write_text("")
    with pytest.raises(DataError, match="expected labels as"):
        label(root, tmp_path / "labels.txt")
    with pytest.raises(DataError, match="no column 'id'"):
        label(root, write_csv(tmp_path / "c.csv", ("a", "b"), header=("name", "label")))


def test_thumbnails_count_for_accuracy_but_not_for_training(tmp_path):
    root = make(tmp_path, replace={"images: full": "images: thumbnail"})
    score(root, str(traffic(tmp_path / "t.parquet", 2, 4)))
    ids = the_log(root).window(*review.EVER, ["id"])[0]["id"].to_pylist()
    found = label(root, write_csv(tmp_path / "l.csv", *((name, "Bag") for name in ids)))
    assert (found.kept, found.without_image, found.ingested) == (4, 4, None)
    assert "only a thumbnail" in "\n".join(found.lines())
    assert len(batches(root / "data")) == 1


def test_a_spreadsheet_runs_nothing_of_what_a_source_says(root, tmp_path):
    log = the_log(root)
    log.append(answers(5, source=["=cmd|' /C calc'!A0"] * 5))
    enqueue(log, ReviewParams(budget=5), NOON, NOON + timedelta(hours=1), "test")
    queue(root, csv_file=tmp_path / "out.csv")
    cells = [row["source"] for row in read_csv(tmp_path / "out.csv")]
    assert cells == ["'=cmd|' /C calc'!A0"] * 5


HOSTILE = '"><script>window.owned = 1</script>'


def test_the_page_labels_in_a_browser_and_runs_nothing_foreign(root, tmp_path, visit):
    images = [*image_bytes("Bag", 2), None]
    entries = [
        Queued(
            id=f"{n:064x}",
            at=NOON,
            source=HOSTILE,
            version="v0.1.0",
            prediction=HOSTILE,
            confidence=0.5,
            ood=1.0,
            phash=1,
            why="uncertain",
            queued_at=NOON,
            because="test",
        )
        for n in range(3)
    ]
    page_file = tmp_path / "queue.html"
    classes = ["Bag", HOSTILE, 'comma, "quote"']
    review_page.write(page_file, zip(entries, images, strict=True), 3, classes, False, 10**6)
    assert "<script>window" not in page_file.read_text()
    shown = visit(page_file)
    assert shown.images == shown.images_loaded > 0
    page = shown.page
    page.fill("#annotator", "Ann, B.")
    page.locator("select").nth(0).select_option("Bag")
    page.locator("select").nth(2).select_option('comma, "quote"')
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / "labels.csv"
    download.value.save_as(saved)
    assert page.evaluate("window.owned") is None
    assert shown.problems == []
    rows = read_csv(saved)
    assert [(row["id"], row["label"], row["annotator"]) for row in rows] == [
        (entries[0].id, "Bag", "Ann, B."),
        (entries[2].id, 'comma, "quote"', "Ann, B."),
    ]


def test_the_report_pages_show_what_waits_now(root):
    client = TestClient(web.app(root), base_url="http://127.0.0.1", client=("127.0.0.1", 1))
    assert "<h1>No image waits for a label" in client.get("/review").text
    waits, _ = queue(root, pick_hours=10**4)
    shown = client.get("/review")
    assert len(waits) == 12
    assert f"<h1>{len(waits)} images to label" in shown.text
    assert shown.text.count("data:image/") == len(waits)
    assert "default-src 'none'" in shown.headers["content-security-policy"]
    assert 'href="/review"' in client.get("/").text
    assert 'href="/"' in shown.text


def test_the_interface_is_well_formed_whatever_classes_are_called():
    from xml.etree import ElementTree

    root = ElementTree.fromstring(label_studio.config([HOSTILE, "a & b", "'\""], multilabel=True))
    assert [choice.get("value") for choice in root.iter("Choice")] == [HOSTILE, "a & b", "'\""]
    assert root.find("Choices").get("choice") == "multiple"


def test_the_columns_of_the_queue_are_the_logs():
    assert set(COLUMNS) <= set(log_schema("multiclass").names)
    assert ReviewParams().budget <= review_queue.CANDIDATES
