"""The production log: written rows are read back in any window, whatever else is in the store."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from monitoring.log.production_log import Log, majority_labels, open_at
from monitoring.log.schema import late_labels_schema, log_schema
from tasks.common.files import sha256_bytes
from tasks.common.params import StoreParams
from tasks.labels.changes import Change
from tasks.labels.taxonomy import compose
from tasks.storage.local import LocalStore
from tests.support.flips import flipped, places
from tests.support.late_labels import late_labels
from tests.support.s3_servers import credentials, moto, rclone  # noqa: F401  (fixtures)

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def answers(count: int, start: datetime = NOON, step: timedelta = MINUTE, **constants) -> pa.Table:
    """`count` answers, `step` apart, with features and one-pixel images."""
    schema = log_schema("multiclass")
    rows = [
        {
            "id": sha256_bytes(f"{start} {n}".encode()),
            "at": start + n * step,
            "source": f"cam-{n % 3}",
            "image": b"x" * 100,
            "bundle": "b" * 64,
            "features": np.full(8, n, np.float32),
            **constants,
        }
        for n in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


@pytest.fixture
def log(tmp_path) -> Log:
    return Log(LocalStore(tmp_path / "log"), "multiclass")


def test_a_window_contains_exactly_the_rows_of_its_time_in_order(log):
    table = answers(150)
    keys = log.append(table.take(pa.array(np.random.default_rng(0).permutation(150))))
    assert [key[:13] for key in sorted(keys)] == ["2026-11-21/12", "2026-11-21/13", "2026-11-21/14"]
    found, unreadable, rows = log.window(NOON + 30 * MINUTE, NOON + 90 * MINUTE)
    assert (rows, unreadable) == (60, [])
    assert found.equals(table.slice(30, 60))


@pytest.mark.parametrize("end", [NOON + timedelta(hours=5), NOON + timedelta(days=3), NOON + timedelta(days=900)])
def test_short_and_long_windows_see_the_same_rows(log, end):
    log.append(answers(150))
    found, unreadable, rows = log.window(NOON, end, ["id", "features"])
    assert (rows, found.num_rows, unreadable, found.column_names) == (150, 150, [], ["id", "features"])


def test_other_hours_and_other_keys_are_not_read(log):
    log.append(answers(10))
    log.append(answers(10, NOON - timedelta(hours=1)))
    log.store.create("windows/20261121T120000Z.json", b"{}")
    log.store.create("2026-11-21/11/torn.parquet", b"PAR1")
    assert log.window(NOON, NOON + timedelta(hours=1))[1:] == ([], 10)


def test_a_sample_depends_on_rows_and_seed_not_on_files(log, tmp_path):
    table = answers(600, step=timedelta(seconds=10))
    log.append(table)
    other = Log(LocalStore(tmp_path / "other"), "multiclass")
    for start in range(0, 600, 50):
        other.append(table.slice(start, 50))
    end = NOON + timedelta(hours=3)
    first, _, rows = log.window(NOON, end, limit=100)
    assert (rows, len(first), len(set(first["id"].to_pylist()))) == (600, 100, 100)
    assert first.equals(other.window(NOON, end, limit=100)[0])
    assert not first.equals(log.window(NOON, end, limit=100, seed=1)[0])
    picked = np.isin(table["id"].to_pylist(), first["id"].to_pylist())
    assert 20 < picked[:300].sum() < 80  # of 50 expected: no part of the window is favoured


def test_every_row_is_sampled_equally_often(log):
    log.append(answers(200, step=timedelta(seconds=10)))
    count = {}
    for seed in range(100):
        for name in log.window(NOON, NOON + timedelta(hours=1), ["id"], limit=50, seed=seed)[0]["id"].to_pylist():
            count[name] = count.get(name, 0) + 1
    assert len(count) == 200
    assert all(8 <= times <= 45 for times in count.values())  # 25 expected


def test_the_same_image_twice_is_two_answers(log):
    table = answers(2)
    same = table.set_column(0, table.schema.field("id"), pa.array([table["id"][0].as_py()] * 2))
    log.append(same)
    assert log.window(NOON, NOON + timedelta(hours=1))[2] == 2


def test_damaged_and_foreign_files_are_skipped_and_listed(log, tmp_path):
    (key,) = log.append(answers(100, step=timedelta(seconds=1)))
    content = log.store.read(key)[0]
    places = {"cut": content[: len(content) // 2], "empty": b"", "text": b"hello", "footer": content[:-30] + b"\0" * 30}
    damaged = bytearray(content)
    at = content.index(b"x" * 100) + 50
    damaged[at] ^= 1
    places["flipped"] = bytes(damaged)
    buffer = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": ["a"], "at": [NOON]}), buffer)
    places["foreign"] = buffer.getvalue().to_pybytes()
    for name, data in places.items():
        log.store.create(f"2026-11-21/12/{name}.parquet", data)
    found, unreadable, rows = log.window(NOON, NOON + timedelta(hours=1))
    assert rows == len(found) == 100
    assert {name.split("/")[-1].removesuffix(".parquet") for name in unreadable} == set(places)


def test_no_flipped_byte_of_a_file_is_read(log, tmp_path):
    """Page checksums say nothing about the footer: names, numbers of rows, units of time."""
    hour = NOON + timedelta(hours=1)
    (key,) = log.append(answers(10))
    file = tmp_path / "log" / key
    whole = log.window(NOON, hour)[0]
    for at in places(file, 60):
        with flipped(file, at):
            assert log.window(NOON, hour)[1:] == ([key], 0)
            assert log.find(whole["id"].to_pylist(), NOON, hour, ["id"]).num_rows == 0
    assert log.window(NOON, hour)[0].equals(whole)
    labels = tmp_path / "log" / log.add_labels(late(("a", NOON, "ann", "Bag")))
    for at in places(labels, 20):
        with flipped(labels, at):
            assert log.labels().num_rows == 0
    assert log.labels().num_rows == 1


def test_a_file_that_an_erasure_has_rewritten_is_read(log, tmp_path):
    """Its name still says the hash and the size of what it was."""
    (key,) = log.append(answers(10))
    found, token = log.store.read(key)
    buffer = pa.BufferOutputStream()
    pq.write_table(pq.read_table(pa.BufferReader(found)).slice(1), buffer, compression="zstd")
    log.store.swap(key, buffer.getvalue().to_pybytes(), token)
    assert log.window(NOON, NOON + timedelta(hours=1))[1:] == ([], 9)


def test_a_window_can_be_limited_to_one_model(log):
    log.append(answers(10))
    log.append(answers(5, NOON + 20 * MINUTE, bundle="c" * 64))
    assert log.window(NOON, NOON + timedelta(hours=1), bundle="c" * 64)[2] == 5


def test_memory_follows_the_sample_not_the_window(log):
    for hour in range(6):
        log.append(answers(400, NOON + hour * timedelta(hours=1), timedelta(seconds=5), image=b"x" * 20_000))
    before = pa.total_allocated_bytes()
    found, _, rows = log.window(NOON, NOON + timedelta(hours=6), limit=50)
    assert (rows, len(found)) == (2400, 50)
    assert pa.total_allocated_bytes() - before < 5e6  # the window's images are 48 MB


def test_a_file_removed_while_reading_is_not_an_error(log):
    log.append(answers(5))

    class Vanishing(LocalStore):
        def list(self, prefix):
            yield from super().list(prefix)
            yield "2026-11-21/12/gone.parquet"

    found = Log(Vanishing(log.store.root), "multiclass").window(NOON, NOON + timedelta(hours=1))
    assert found[1:] == ([], 5)


def test_last_at_ignores_clocks_that_run_ahead(log):
    now = NOON + timedelta(hours=2)
    assert log.last_at(now) is None
    log.append(answers(10))
    log.append(answers(3, NOON + timedelta(days=400)))
    assert log.last_at(now) == NOON + 9 * MINUTE
    assert log.last_at(NOON + timedelta(days=30)) == NOON + 9 * MINUTE


def late(*rows) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(("id", "at", "annotator", "label"), row, strict=True)) for row in rows],
        schema=late_labels_schema("multiclass"),
    )


def test_the_newest_label_of_each_annotator_counts_then_the_majority(log):
    log.add_labels(late(("a", NOON, "ann", "Bag"), ("b", NOON, "ann", "Bag")))
    log.add_labels(late(("a", NOON + MINUTE, "ann", "Coat"), ("b", NOON + MINUTE, "bob", "Coat")))
    log.add_labels(late(("a", NOON - MINUTE, "bob", "Bag"), ("a", NOON, "cem", "Bag")))
    assert log.add_labels(late()) is None
    found = log.labels()
    assert [(row["id"], row["annotator"], row["label"]) for row in found.to_pylist()] == [
        ("a", "bob", "Bag"),
        ("a", "cem", "Bag"),
        ("b", "ann", "Bag"),
        ("a", "ann", "Coat"),
        ("b", "bob", "Coat"),
    ]
    assert dict(zip(*majority_labels(found).to_pydict().values(), strict=True)) == {"a": "Bag", "b": "Coat"}
    assert log.labels(since=NOON + MINUTE).num_rows == 2


def test_a_reviewers_newest_label_overrides_the_majority(log):
    log.add_labels(late(("a", NOON, "ann", "Bag"), ("a", NOON, "bob", "Bag"), ("b", NOON, "ann", "Bag")))
    review = {"id": "a", "annotator": "eve", "role": "reviewer"}
    given = [review | {"at": NOON - MINUTE, "label": "Coat"}, review | {"at": NOON - 2 * MINUTE, "label": "Boot"}]
    log.add_labels(pa.Table.from_pylist(given, schema=late_labels_schema("multiclass")))
    assert dict(zip(*majority_labels(log.labels()).to_pydict().values(), strict=True)) == {"a": "Coat", "b": "Bag"}


def test_what_one_person_says_as_a_reviewer_outlasts_their_vote(log):
    rows = [{"id": "a", "annotator": "eve", "label": "Coat", "role": "reviewer", "at": NOON}]
    rows += [{"id": "a", "annotator": "eve", "label": "Bag", "role": "annotator", "at": NOON + MINUTE}]
    log.add_labels(pa.Table.from_pylist(rows, schema=late_labels_schema("multiclass")))
    assert majority_labels(log.labels())["label"].to_pylist() == ["Coat"]


def test_votes_are_counted_in_the_names_of_today_and_excluded_images_have_no_label(log):
    about = {"at": "", "by": "", "why": "", "state": ""}
    renamed = compose([Change(number=1, kind="rename", old=["Bag"], new=["Sack"], **about)])
    log.add_labels(late(("a", NOON, "ann", "Bag"), ("a", NOON, "bob", "Sack"), ("a", NOON + MINUTE, "cem", "Coat")))
    log.add_labels(late(("b", NOON, "ann", None), ("b", NOON, "bob", None), ("b", NOON, "cem", "Coat")))
    assert majority_labels(log.labels(), renamed).to_pydict() == {"id": ["a"], "label": ["Sack"]}


def test_find_returns_the_newest_answer_of_an_id(log):
    table = answers(3)
    log.append(table)
    again = table.set_column(1, table.schema.field("at"), pa.array([NOON + timedelta(hours=5)] * 3, table["at"].type))
    log.append(again.slice(0, 1))
    ids = table["id"].to_pylist()
    found = log.find([ids[0], ids[2], "unknown"], NOON, NOON + timedelta(days=1), ["id", "at", "image"])
    assert dict(zip(found["id"].to_pylist(), found["at"].to_pylist(), strict=True)) == {
        ids[0]: NOON + timedelta(hours=5),
        ids[2]: NOON + 2 * MINUTE,
    }


def test_answers_returns_every_answer_of_an_id_and_only_labels_of_new_files_are_read(log):
    twice = [answers(2, start, step=timedelta(0), id="a" * 64) for start in (NOON, NOON + 3 * 60 * MINUTE)]
    for table in (*twice, answers(5, NOON + 60 * MINUTE)):
        log.append(table)
    found = log.answers(["a" * 64, "f" * 64], NOON, NOON + timedelta(days=1), ["id", "at"])
    assert found.column_names == ["id", "at"]
    assert found["at"].to_pylist() == [NOON, NOON, NOON + 3 * 60 * MINUTE, NOON + 3 * 60 * MINUTE]
    assert len(log.answers(["a" * 64], NOON, NOON + MINUTE, ["id"])) == 2
    assert len(log.answers([], NOON, NOON + timedelta(days=1), ["id"])) == 0
    for name in "ab":
        log.add_labels(late_labels({"id": [name * 64], "at": [NOON], "annotator": ["x"], "label": ["Bag"]}))
    first, second = log.label_keys()
    assert len(log.labels(keys=[first])) == len(log.labels(keys=[second])) == 1
    assert len(log.labels()) == 2


def test_retention_by_age_then_size_keeps_labels(log):
    for day in range(6):
        log.append(answers(20, NOON + timedelta(days=day)))
    log.add_labels(late(("a", NOON, "ann", "Bag")))
    now = NOON + timedelta(days=6)
    assert log.prune(now, keep_days=4, keep_gb=1) == 2
    (size,) = {int(key.rsplit("-", 1)[1].split(".")[0]) // 1000 for key in log.store.list("2")}
    assert log.prune(now, keep_days=4, keep_gb=2.5 * (size + 1) * 1000 / 1e9) == 2
    assert [key[:10] for key in log.store.list("2")] == ["2026-11-25", "2026-11-26"]
    assert log.labels().num_rows == 1
    assert log.prune(now, keep_days=4, keep_gb=1) == 0


def test_rows_without_time_are_rejected(log):
    with pytest.raises(ValueError, match="`at` set"):
        log.append(answers(1, at=None))


@pytest.mark.parametrize("kind", ["moto", "rclone"])
def test_the_log_on_s3_is_the_same_log(kind, request, tmp_path):
    request.getfixturevalue("credentials")
    server = request.getfixturevalue(kind)
    params = StoreParams(endpoint_url=server.endpoint, single_writer=not server.conditional)
    log = open_at(f"s3://{server.bucket()}/shoes/log", tmp_path, params, "multiclass")
    table = answers(150)
    log.append(table)
    log.append(table)  # again, as after a lost reply
    log.add_labels(late(("a", NOON, "ann", "Bag")))
    assert log.window(NOON, NOON + timedelta(hours=3))[0].equals(table)
    key = next(log.store.list("2026-11-21/13/"))
    content, token = log.store.read(key)
    token = log.store.swap(key, content[:-20] + bytes([content[-20] ^ 1]) + content[-19:], token)
    assert log.window(NOON, NOON + timedelta(hours=3))[1:] == ([key], 90)
    log.store.swap(key, content, token)
    sample, unreadable, rows = log.window(NOON, NOON + timedelta(hours=3), ["id"], limit=20)
    assert (len(sample), unreadable, rows) == (20, [], 150)
    assert log.last_at(NOON + timedelta(days=1)) == NOON + 149 * MINUTE
    assert log.labels()["label"].to_pylist() == ["Bag"]
    assert log.prune(NOON + timedelta(days=9), keep_days=1, keep_gb=1) == 3
