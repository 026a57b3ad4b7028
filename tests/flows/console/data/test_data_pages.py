"""The pages of batches: who added what, what became of it, and what a person can do about it."""

import csv
import gzip
import io
import json
import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.console.data import batches, refusals
from flows.console.data.batch import what_is_true
from flows.console.data.batches import BatchRow, Stone
from flows.console.data.counts import Counts, counts_of, totals_of
from flows.console.index.columns import Columns
from flows.console.index.index import index_of
from flows.console.jobs.store import newest_job
from flows.console.people import session
from flows.console.people import store as people
from flows.labels.journal import Answer
from flows.labels.people import read_words
from flows.labels.take import take
from tasks.common.checkout import checkout
from tasks.common.files import write_json
from tasks.common.params import load_params
from tasks.ingest.found import Refused
from tasks.ingest.writing import write_quarantine
from tests.support import versions_project
from tests.support.console import job_ended, serving
from tests.support.versions_project import store

FIRST, SECOND, THIRD = (f"b-00000000000{number}" for number in (1, 2, 3))
WORDS = "a long passphrase of eve"
HOSTILE = '<img src=x onerror="alert(1)">'


@pytest.fixture
def root(tmp_path):
    made = versions_project.copy(tmp_path / "project")
    index_of(made).refresh()
    return made


def rows_of(root) -> dict[str, BatchRow]:
    params = load_params(root / "params.yaml")
    return {row.id: row for row in batches.all_rows(root, params, store(root), index_of(root).columns())}


def test_each_batch_says_its_mix_its_versions_and_its_state(root):
    store(root).tombstone(SECOND, why="labels are noisy", by="run r-7")
    rows = rows_of(root)
    assert list(rows) == [THIRD, SECOND, FIRST], "newest first"
    assert rows[FIRST].versions == ("v0.1.0", "v0.2.0", "v0.3.0")
    assert rows[THIRD].versions == ("v0.3.0",)
    assert sum(rows[FIRST].counts.classes.values()) == rows[FIRST].rows
    assert sum(share for _, _, share in rows[FIRST].mix()) == pytest.approx(1)
    assert [row.state for row in rows.values()] == ["in use", "refused", "in use"]
    assert rows[SECOND].stone.run == "r-7"
    totals = dict(totals_of(index_of(root).columns(), ("train", "calibration", "test", "hard"), {SECOND}))
    images = sum(sum(counts.values()) for counts in totals.values())
    assert images == rows[FIRST].rows + rows[THIRD].rows - excluded(root)
    page = batches.one_page(list(rows.values()), None, most=2)
    assert ([row.id for row in page.rows], page.after) == ([THIRD, SECOND], SECOND)
    assert [row.id for row in batches.one_page(list(rows.values()), page.after).rows] == [FIRST]


def excluded(root) -> int:
    words = read_words(root, load_params(root / "params.yaml"))
    return sum(decision.excluded for decision in words.decisions.values())


def test_a_commit_names_who_added_a_batch(root):
    from tests.support.checkout import git

    (root / "data.dvc").write_text((root / "data.dvc").read_text() + "# x\n")
    git(root, "commit", "-qam", f"took 9 new images; batch {THIRD}")
    at, by = batches.commits_of(root)[THIRD]
    assert by == git(root, "config", "user.name")
    assert at.tzinfo is not None


@pytest.mark.parametrize(
    ("stone", "blocking", "said"),
    [
        (None, False, "It is in use"),
        (None, True, "no model is trained until somebody decides"),
        (Stone("noisy", "run r-1", "", True, False), False, "runs go on without it"),
        (Stone("noisy", "run r-1", "", False, False), False, "the next run judges it again"),
        (Stone("blurred", "Ann", "", True, True), False, "only a commit takes it back"),
    ],
)
def test_a_batch_says_what_is_true_now(stone, blocking, said):
    row = BatchRow("b-1", 1, "import", 9, 9, {}, None, "", Counts(), stone, ())
    found = " ".join(what_is_true(row, blocking))
    assert said in found
    if stone is not None:
        assert "no model is trained" not in found


def test_a_refused_batch_is_on_top_can_be_corrected_and_allowed_again(root):
    store(root).tombstone(SECOND, why=f"labels are noisy {HOSTILE}", by="run r-7")
    write_json(
        root / ".evergreen/validation" / f"{SECOND}.json",
        {
            "refused": {"what": SECOND, "reasons": [f"60 images look like another class {HOSTILE}"]},
            "batches": [
                {
                    "batch": SECOND,
                    "checks": [{"name": "noise.cat", "status": "fail", "value": 0.5, "bound": 0.1, "detail": "x"}],
                }
            ],
            "opinions": {
                "images": [{"id": "0" * 64, "given": "cat", "seen": "dog", "confidence": 0.93}],
                "confused": [{"given": "cat", "seen": "dog", "count": 60}],
            },
        },
    )
    with serving(root) as site:
        status, _, text = site.get("/data")
        assert status == 200
        assert HOSTILE not in text
        assert text.index("Refused batches") < text.index("batches-title")
        _, _, text = site.get(f"/data/{SECOND}")
        assert HOSTILE not in text
        for words in ("given cat", "seen dog 93 %", "runs go on without it", "Allow it again", "Correct these labels"):
            assert words in text, words
        assert "Nothing is trained until this is settled" not in text
        assert f"{'0' * 64},cat,dog,0.93" in site.get(f"/data/{SECOND}?format=seen")[2]
        assert "rule,noise.cat,fail,0.5,0.1,x" in site.get(f"/data/{SECOND}?format=rules")[2]
        assert "class,cat," in site.get(f"/data/{SECOND}?format=mix")[2]
        assert site.get(f"/data/{SECOND}?format=odd")[0] == 404
        _, _, text = site.get(f"/data/{SECOND}?given=cat&right=dog")
        assert "images get another label" in text
        status, _, _ = site.post(
            f"/data/{SECOND}/relabel", {"given": "cat", "right": "dog", "why": "mixed up"}, page=f"/data/{SECOND}"
        )
        assert status == 303
        job_ended(root, f"relabel {SECOND}")
        assert "took " in newest_job(root, f"relabel {SECOND}").result
        words = read_words(root, load_params(root / "params.yaml"))
        assert "cat" not in {words.now()[one] for one in of_batch(root, SECOND)}
        status, headers, _ = site.post(f"/data/{SECOND}/allow", {"why": "corrected"}, page=f"/data/{SECOND}")
        assert (status, headers["location"]) == (303, f"/data/{SECOND}")
        assert SECOND not in store(root).tombstones()
        _, _, text = site.get(f"/data/{SECOND}")
        assert "It is in use" in text
        assert "took that back" in text
        status, _, _ = site.post(f"/data/{SECOND}/tombstone", {"why": "no"}, page=f"/data/{SECOND}")
        assert store(root).tombstones()[SECOND]["why"] == "no"
        status, headers, _ = site.post(
            f"/data/{SECOND}/allow", {"why": " ", "back": f"/data/{SECOND}"}, page=f"/data/{SECOND}"
        )
        assert SECOND in store(root).tombstones(), "not without a reason"
        status, _, _ = site.get("/data/b-ffffffffffff")
        assert status == 404


def of_batch(root, batch: str) -> list[str]:
    from tasks.dataset.shards import batches as manifests
    from tasks.dataset.shards import read_columns

    (found,) = [one for one in manifests(root / "data") if one.batch == batch]
    return [one for name in found.shards for one in read_columns(root / "data" / name, ["id"])["id"].to_pylist()]


def test_tables_can_be_saved(root):
    with serving(root) as site:
        tables = {}
        for name in ("batches", "classes", "labels"):
            _, headers, text = site.get(f"/data?format=csv&table={name}")
            assert "attachment" in headers["content-disposition"]
            tables[name] = list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))
    assert [row["batch"] for row in tables["batches"]] == [THIRD, SECOND, FIRST]
    assert {row["class"] for row in tables["classes"]} == {"cat", "dog"}
    assert json.dumps(tables["labels"])


def test_the_file_of_refused_rows_has_all_of_them(root):
    count = refusals.SHOWN + 50
    columns = {name: [f"{name} {number}" for number in range(count)] for name in ("where", "reason", "detail")}
    (root / ".evergreen/quarantine").mkdir(exist_ok=True)
    pq.write_table(pa.table(columns), root / f".evergreen/quarantine/{THIRD}.parquet")
    with serving(root) as site:
        assert f"{count} rows were refused" in site.get(f"/data/{THIRD}")[2]
        assert site.get(f"/data/{THIRD}?format=csv")[2].count("\n") == count + 1
    assert len(refusals.refused_at_ingest(root, THIRD)[0]) == refusals.SHOWN


def test_the_data_as_a_whole_says_what_was_refused_and_whether_it_still_is(root):
    kept = {
        "refused": {"what": "table", "reasons": [f"0 labelled rows {HOSTILE}"]},
        "checks": [{"name": "rows", "status": "fail", "value": 0, "bound": 50, "detail": HOSTILE}],
        "expectations": [{"type": "not_null", "passed": False, "error": "", "severity": "stop", "broken_by": 3}],
    }
    with serving(root) as site:
        assert site.get("/data/table")[0] == 404
        write_json(root / ".evergreen/validation/table.json", kept)
        _, _, text = site.get("/data/table")
        assert HOSTILE not in text
        assert "A later run got past this" in text
        assert "not_null" in text
        assert "expectation,not_null,fail,3,,stop" in site.get("/data/table?format=csv")[2]
        about = {
            "outcome": "refused",
            "sentence": "the data set is refused: 0 labelled rows",
            "at": "2027-01-01T00:00:00+00:00",
        }
        store(root).put_run("run-9", about)
        assert "no model is trained until this is settled" in site.get("/data/table")[2]
        _, _, text = site.get("/data")
        assert "The newest run refused the data" in text
        assert 'href="/data/table"' in text


def test_an_image_with_several_labels_counts_for_each():
    names = {
        "batch": [None, "b-1"],
        "true": [None, "cat", "cat + dog", "none of the classes"],
        "split": [None, "train"],
    }
    names |= {"source": [None], "state": [None, "in use"]}
    codes = {"batch": [1, 1, 1, 0], "true": [1, 2, 3, 1], "split": [1] * 4, "source": [0] * 4, "state": [1] * 4}
    arrays = {name: np.array(value) for name, value in codes.items()}
    columns = Columns(
        generation=1, removals=0, row=np.arange(4), measured={}, codes=arrays, names=names, file=np.ones(4)
    )
    assert counts_of(columns, multilabel=True)["b-1"].classes == {"cat": 2, "dog": 1}
    assert totals_of(columns, ("train", "test"), (), True) == [
        ("cat", {"train": 2, "test": 0}),
        ("dog", {"train": 1, "test": 0}),
    ]
    assert totals_of(columns, ("train",), {"b-1"}, True) == []


def test_a_viewer_sees_data_and_runs_and_may_change_neither(root):
    people.join(root, people.add(root, "eve", "viewer", "ann"), WORDS, WORDS)
    own, mark = checkout(root), people.read_people(root).active("eve").session
    cookie = session.new_cookie(own, session.PERSON, "eve", mark)
    eve = {"Authorization": "", "Cookie": f"{session.cookie_name(own)}={cookie}"}
    store(root).put_run("run-1", {"outcome": "unchanged", "sentence": "s", "at": "2026-01-01T00:00:00+00:00"})
    with serving(root) as site:
        for path in ("/data", f"/data/{FIRST}", "/data/upload", "/runs", "/runs/run-1"):
            status, _, text = site.get(path, **eve)
            assert status == 200, path
            assert "Tombstone it" not in text
            assert "Retrain now" not in text
            assert 'type="file"' not in text
        for path in (
            f"/data/{FIRST}/tombstone",
            f"/data/{FIRST}/allow",
            f"/data/{FIRST}/relabel",
            "/runs",
            "/runs/run-1/again",
        ):
            status, _, text = site.post(path, {"why": "x", "given": "cat"}, page="/people", **eve)
            assert status == 403, path
            assert "takes the role approver" in text
    assert store(root).tombstones() == {}


def test_a_batch_of_two_hundred_classes_with_much_refused_stays_a_small_page(root):
    names = [f"class {number:03d}" for number in range(200)]
    reviewer = Answer("", annotator="Ann", role="reviewer", why="named")
    take(root, [replace(reviewer, id=one, label=names[place % 200]) for place, one in enumerate(of_batch(root, FIRST))])
    index_of(root).refresh()
    with serving(root) as site:
        assert re.search(r"CSV of all \d+ classes", site.get("/data")[2])
    store(root).tombstone(FIRST, why="noisy", by="run r-7")
    check = {"status": "fail", "value": 0.5, "bound": 0.1, "detail": "x" * 200}
    images = [{"id": one, "given": "a", "seen": "b", "confidence": 0.9} for one in of_batch(root, FIRST)]
    write_json(
        root / ".evergreen/validation" / f"{FIRST}.json",
        {
            "refused": {"what": FIRST, "reasons": ["x"]},
            "batches": [{"batch": FIRST, "checks": [check | {"name": f"noise.{name}"} for name in names]}],
            "opinions": {"images": images * 9, "confused": [{"given": a, "seen": "b", "count": 1} for a in names]},
        },
    )
    write_quarantine(root, FIRST, [Refused(n, f"{n}.png", "bad_label", "x" * 300) for n in range(900)], {})
    with serving(root) as site:
        _, _, text = site.get(f"/data/{FIRST}")
        assert len(re.findall("<[a-z]", text)) < 1500
        assert len(gzip.compress(text.encode())) < 100_000
        assert "900 rows were refused" in text
