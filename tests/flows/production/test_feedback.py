"""Labels that clients of the predictor sent: taken once, within the quota, never against a person."""

import os
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.erasure.places import clean_items, store_items
from flows.production import feedback_quota
from flows.production.feedback import drop_feedback, take_feedback
from flows.production.feedback_quota import START, Offer, within_quota
from flows.production.labels import EVER, take_labels
from flows.production.monitor import monitor_and_record
from flows.production.score import score
from flows.services.housekeeping import housekeeping
from monitoring.log.feedback import LOGGED, NEW, FeedbackJournal
from monitoring.log.production_log import Log, open_log
from serving.service.contracts import Feedback
from tasks.common.params import load_params
from tasks.dataset.shards import batches, read_columns
from tasks.erasure.traces import Search, Traces
from tasks.labels.annotations import read_annotations
from tests.support.checkout import git
from tests.support.children import killed_at, start
from tests.support.live_project import make, traffic
from tests.support.shared import once
from tests.support.waiting import until


def _make(folder) -> None:
    root = make(folder)
    file = traffic(folder / "traffic.parquet", 2, 60)
    table = pq.read_table(file)
    pq.write_table(table.append_column("order", pa.array([f"order {n}" for n in range(60)])), file)
    score(root, str(file), key_column="order")


@pytest.fixture
def root(tmp_path):
    return shutil.copytree(once("feedback", _make) / "main", tmp_path / "main", symlinks=True)


def the_log(root) -> Log:
    return open_log(root, load_params(root / "params.yaml"))


def images(root) -> list[str]:
    return the_log(root).window(*EVER, ["id"])[0]["id"].to_pylist()


def journal(root) -> FeedbackJournal:
    return FeedbackJournal(the_log(root).store)


def send(root, *names: str, label="Bag", who="ann", client="line-1", **about) -> None:
    journal(root).keep([Feedback(name, label, who, client, **about) for name in names])


def in_log(root) -> dict[tuple[str, str], str]:
    return {(row["id"], row["annotator"]): row["label"] for row in the_log(root).labels().to_pylist()}


def in_data(root) -> dict[str, list[str]]:
    """Image -> what clients say about it in data/."""
    found = {}
    for row in read_annotations(root / "data").to_pylist():
        if (row["annotator"] or "").startswith("feedback:"):
            found.setdefault(row["id"], []).append(row["label"])
    return found


# the quota


def test_a_flood_does_not_raise_its_own_limit():
    flood = [Offer(f"f{n}", f"cam-{n}", "flood") for n in range(10_000)]  # a source of its own for each
    fits = within_quota(flood, [], [f"p{n}" for n in range(100)], 0.25)
    assert sum(fits) == 33  # a quarter of the 133 labels that there are then
    assert sum(within_quota(flood[:40], [], [], 0.25)) == START


def test_later_calls_open_nothing_again():
    flood = [Offer(f"f{n}", None, "flood") for n in range(500)]
    people = [f"p{n}" for n in range(100)]
    taken: list[Offer] = []
    for first in range(0, 500, 50):
        part = flood[first : first + 50]
        fits = within_quota(part, taken, [*people, *(one.id for one in taken)], 0.25)
        taken += [one for one, fit in zip(part, fits, strict=True) if fit]
    assert len(taken) == 33


def test_a_second_word_about_an_image_costs_nothing_and_each_client_and_source_has_a_limit_of_its_own():
    had = [Offer(f"a{n}", "cam", "app") for n in range(START)]
    offered = [Offer("a3", "cam", "app"), Offer("new", "cam", "app"), Offer("x", "cam", "other"), Offer("y", "b", "c")]
    assert within_quota(offered, had, [one.id for one in had], 0.25) == [True, False, False, True]


# taking


def test_labels_come_by_id_and_key_into_the_log_and_data_with_their_client(root):
    first, second, *_ = images(root)
    key = the_log(root).find([second], *EVER, ["key"])["key"].to_pylist()[0]
    at = datetime.now(UTC) - timedelta(hours=1)
    send(root, first, why="returned by the customer", at=at)
    send(root, key, label="Trouser", who="bea", client="line-2")
    before = git(root, "rev-parse", "HEAD")
    found = take_feedback(root)
    assert (found.logged, found.waiting, found.changes) == (2, 0, 4)
    assert in_log(root) == {(first, "feedback:line-1/ann"): "Bag", (second, "feedback:line-2/bea"): "Trouser"}
    rows = the_log(root).labels().to_pylist()
    assert {(row["picked"], row["sampling_probability"], row["role"]) for row in rows} == {
        ("feedback", None, "annotator")
    }
    assert at in {row["at"] for row in rows}
    assert in_data(root) == {first: ["Bag"], second: ["Trouser"]}
    (shard,) = batches(root / "data")[-1].shards
    held = read_columns(root / "data" / shard, ["split", "picked"]).to_pylist()
    assert {(row["split"], row["picked"]) for row in held} == {("train", "feedback")}  # it measures nothing
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"
    assert journal(root).count() == 0
    assert take_feedback(root).lines() == ["0 labels of clients taken, 0 left"]


def test_a_client_teaches_at_most_its_quota_and_a_person_may_take_the_rest(root, monkeypatch):
    monkeypatch.setattr(feedback_quota, "START", 5)
    names = images(root)
    send(root, *names[:30], client="flood")
    for who in ("eve", "mallory"):  # other names behind the same token change nothing
        send(root, *names[:40], who=who, client="flood")
    send(root, *names[40:43], client="line-1")
    found = take_feedback(root)
    said = Counter(annotator.partition("/")[0] for _, annotator in in_log(root))
    assert said == {"feedback:flood": 5, "feedback:line-1": 3}
    assert len(in_data(root)) == 8
    assert found.verdicts["quota"] > 20
    assert take_feedback(root).changes == 0  # offered again, the quota is not open again
    assert any("reached its quota" in line for line in take_feedback(root).lines())
    assert take_feedback(root, quota=False, client="line-9").changes == 0
    assert take_feedback(root, quota=False, client="flood").logged == 35
    assert max(Counter(name for name, _ in in_log(root)).values()) == 1  # one token, one vote for each image
    assert len(in_data(root)) == 43


def test_a_person_is_not_contradicted_and_a_client_may_correct_itself(root, tmp_path):
    first, second, third, *_ = images(root)
    file = tmp_path / "labels.csv"
    file.write_text(f"id,label,annotator\n{first},Trouser,cleo\n")
    take_labels(root, file)
    send(root, first, second)
    found = take_feedback(root)
    assert found.verdicts == {"person": 1}
    send(root, second, label="Trouser")  # the same client thinks again
    send(root, second, who="bob")  # a colleague with the same token
    send(root, third, label="not a class")
    send(root, "f" * 64)
    found = take_feedback(root)
    assert found.corrected == 1
    assert found.verdicts == {"spoken": 1, "label": 1, "image": 1}
    assert in_log(root) == {(first, "cleo"): "Trouser", (second, "feedback:line-1/ann"): "Trouser"}
    assert in_data(root) == {second: ["Bag", "Trouser"]}
    assert journal(root).count() == 2
    later = datetime.now(UTC) + timedelta(days=31)
    assert take_feedback(root, now=later).expired == 2
    assert journal(root).count() == 0


def test_feedback_about_an_image_of_the_data_set_does_not_change_the_data_set(root, tmp_path):
    name, other, *_ = images(root)
    file = tmp_path / "labels.csv"
    file.write_text(f"id,label,annotator\n{name},Trouser,cleo\n")
    take_labels(root, file)
    held = read_annotations(root / "data").to_pylist()
    send(root, name, other)
    take_feedback(root)
    assert [row for row in read_annotations(root / "data").to_pylist() if row["id"] == name] == held


def test_the_monitor_counts_labels_at_once_and_housekeeping_takes_the_images(root):
    first, *_ = images(root)
    send(root, first)
    said = []
    monitor_and_record(root, said.append)
    assert any("new for the live accuracy: 1 label of clients" in line for line in said)
    assert in_log(root) == {(first, "feedback:line-1/ann"): "Bag"}
    assert in_data(root) == {}
    assert [key.startswith(LOGGED) for key in the_log(root).store.list("feedback/")] == [True]
    assert "labels of clients that waited" in housekeeping(root, said.append)
    assert in_data(root) == {first: ["Bag"]}
    assert journal(root).count() == 0


def test_waiting_labels_of_a_client_can_be_dropped(root):
    send(root, *images(root)[:4], client="broken")
    send(root, images(root)[5])
    assert drop_feedback(root, "broken") == 4
    assert [one.label.client for one in journal(root).waiting().labels] == ["line-1"]


# kills


def _acknowledge_for_ever(root, told) -> None:
    """Keep labels, and tell each after it was kept, as the service answers."""
    kept = FeedbackJournal(the_log(root).store)
    with open(told, "a", buffering=1) as file:
        for number in range(100_000):
            kept.keep([Feedback(f"order {number}", "Bag", "ann", "line-1")])
            file.write(f"order {number}\n")


def test_no_acknowledged_label_is_lost_to_kill_9(root, tmp_path):
    told = tmp_path / "told"
    process = start(_acknowledge_for_ever, root, told)
    until(lambda: told.is_file() and len(told.read_text().splitlines()) > 20)
    os.kill(process.pid, 9)
    process.join()
    acknowledged = {line for line in told.read_text().split("\n")[:-1]}
    assert acknowledged <= {one.label.name for one in journal(root).waiting().labels}
    assert killed_at("store.placed", send, root, "not acknowledged")  # it counts all the same
    assert "not acknowledged" in {one.label.name for one in journal(root).waiting().labels}


@pytest.mark.parametrize("point", ["store.placed", "ingest.after_manifest", "store.placed:2"])
def test_a_killed_take_is_completed_by_the_next_one_and_counts_once(root, point):
    """Killed once the log has the labels, once data/ has them, and once what is left was written."""
    names = images(root)[:3]
    send(root, *names)
    send(root, "order nowhere")
    before = git(root, "rev-parse", "HEAD")
    assert killed_at(point, take_feedback, root)
    take_feedback(root)
    assert in_log(root) == {(name, "feedback:line-1/ann"): "Bag" for name in names}
    assert in_data(root) == {name: ["Bag"] for name in names}
    assert [one.label.name for one in journal(root).waiting().labels] == ["order nowhere"]
    assert git(root, "rev-list", "--count", f"{before}..HEAD") == "1"


# what else reads the journal


def test_damaged_and_newer_files_are_skipped_and_stay(root):
    store = the_log(root).store
    store.create(f"{NEW}20260101T000000Z-0.json", b"{")
    store.create(f"{NEW}20260101T000000Z-1.json", b'{"schema": 99, "labels": []}')
    send(root, images(root)[0])
    assert take_feedback(root).logged == 1
    assert len(list(store.list(NEW))) == 2


def test_an_erasure_removes_labels_that_wait(root):
    first, second, *_ = images(root)
    send(root, first, "order 3", second)
    search = Search(Traces(ids=[first], names=["order 3"]))
    clean_items(store_items(the_log(root).store, lambda key: not key.endswith(".parquet")), search)
    assert [one.label.name for one in journal(root).waiting().labels] == [second]


def test_the_command_lists_takes_and_drops(root, monkeypatch):
    monkeypatch.chdir(root)
    run = CliRunner()
    first, second, *_ = images(root)
    send(root, first, why="bad \x1b[31mcolour")
    send(root, "order nowhere", client="line-2")
    listed = run.invoke(app, ["feedback", "list"]).output
    assert "waiting: 2 labels of clients" in listed
    assert "line-1: 1 will be taken" in listed
    assert "line-2: 1 wait for their image" in listed
    assert "\x1b" not in listed
    dropped = run.invoke(app, ["feedback", "drop", "line-2", "--why", "a test \x1b[31mstand"]).output
    assert "1 label of line-2 dropped" in dropped
    send(root, second, client="line-2")
    assert "1 label of clients taken, 1 left" in run.invoke(app, ["feedback", "take", "--client", "line-1"]).output
    assert set(in_data(root)) == {first}
    assert run.invoke(app, ["feedback", "take", "--client", "line-1", "--why", "nothing new"]).exit_code == 0
    listed = run.invoke(app, ["feedback", "list"]).output
    decided = [line for line in listed.splitlines() if line.startswith("decided: ")]
    assert [line.partition(" by ")[0] for line in decided] == [
        "decided: 0 labels of line-1 were taken",
        "decided: 1 label of line-2 was dropped",
    ]
    assert "UTC: a test" in decided[1]
    assert "\x1b" not in listed
    before = git(root, "rev-parse", "HEAD")
    assert "took 1 new image" in run.invoke(app, ["feedback", "take", "--beyond-quota", "--no-commit"]).output
    assert git(root, "rev-parse", "HEAD") == before
