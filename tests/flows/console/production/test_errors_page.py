"""The error review of a month: page, CSV, terminal."""

import threading
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from flows.console.index.index import index_of
from flows.console.production.reviews import Reviews
from flows.production.errors import default_month, error_review, learnt_since, months
from monitoring.log.production_log import Log, open_log
from monitoring.review.queue import waiting
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tasks.releases.store import open_store
from tests.support import drift_windows, live_project, released_project
from tests.support.checkout import ROOT
from tests.support.children import command
from tests.support.console import serving
from tests.support.late_labels import late_labels
from tests.support.small_project import CLASSES

ROWS = 60
HOSTILE = "<img src=x onerror=alert(1)>"
NOVEMBER, OCTOBER = datetime(2026, 11, 5, 9, tzinfo=UTC), datetime(2026, 10, 5, 9, tzinfo=UTC)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """60 answers in November and the same images in October; a label of each, 20 of them say otherwise."""
    root = live_project.make(tmp_path_factory.mktemp("errors"))
    log, live = the_log(root), open_store(load_params(root / "params.yaml").store, root).live()
    table = drift_windows.window_table(0, ROWS, CLASSES, source=HOSTILE)
    at = {name: table.schema.get_field_index(name) for name in ("bundle", "at")}
    table = table.set_column(at["bundle"], table.schema.field("bundle"), pa.array([live.bundle] * ROWS))
    for when in (OCTOBER, NOVEMBER):
        column = pa.array([when] * ROWS, table.schema.field("at").type)
        log.append(table.set_column(at["at"], table.schema.field("at"), column))
    said = table["prediction"].to_pylist()
    right = [CLASSES[(CLASSES.index(name) + 1) % 3] if row % 3 == 0 else name for row, name in enumerate(said)]
    known = {"id": table["id"].to_pylist(), "at": [NOVEMBER] * ROWS, "annotator": ["ann"] * ROWS, "label": right}
    known |= {"role": ["annotator"] * ROWS, "picked": ["audit"] * ROWS, "sampling_probability": [1.0] * ROWS}
    log.add_labels(late_labels(known))
    return root


def the_log(root: Path) -> Log:
    return open_log(root, load_params(root / "params.yaml"))


@pytest.fixture(scope="module")
def site(root):
    index_of(root).refresh()
    with serving(root) as running:
        yield running


def test_the_page_shows_what_was_wrong_and_where(root, site, visit):
    assert 'href="/production/errors"' in site.get("/production")[2]
    status, _, text = site.get("/production/errors?month=2026-11")
    assert status == 200
    assert HOSTILE not in text
    assert "drawn at random of 60 answers" in text
    assert text.count('type="checkbox"') == 20
    assert len(text) < 100_000
    assert "<option selected>2026-11" in text
    assert "2026-10" in text
    csv = site.get("/production/errors?month=2026-11&format=csv")
    assert csv[1]["Content-Disposition"] == 'attachment; filename="errors-2026-11.csv"'
    assert csv[2].count("\n") == 21
    assert site.get("/production/errors?month=2026-11&format=classes")[2].count("\n") == 4
    assert site.get("/production/errors?month=2026-11&format=sources")[2].count("\n") == 2
    name = CLASSES[1]
    part = site.get(f"/production/errors?month=2026-11&label={name}&format=csv")[2]
    assert 0 < part.count("\n") - 1 < 20
    assert all(name in line for line in part.splitlines()[1:])
    confident = site.get("/production/errors?month=2026-11&kind=confident")[2]
    assert confident.count('type="checkbox"') < 20
    for path in ("/production/errors?month=2026-11", "/production/errors?month=2026-09"):
        for width, dark in ((1280, False), (390, True)):
            shown = visit(site.url + path, user=site.user, width=width, dark=dark)
            assert shown.axe_violations == [], shown.axe_violations
            assert not shown.scrolls_sideways
            assert shown.problems == []


def test_chosen_errors_go_to_people(root, site):
    params, log = load_params(root / "params.yaml"), the_log(root)
    found = error_review(root, params, log, "2026-11", lambda bundle: None)
    page = "/production/errors?month=2026-11"
    status, _, _ = site.post("/images/queue", {"id": [found.errors[0].id], "back": page}, page=page)
    assert status == 303
    assert waiting(log) == [], "it has its label already: only data/ could change it"
    assert 'formaction="/hard-set/plan"' in site.get(page)[2]
    status, _, text = site.post("/hard-set/plan", {"id": [found.errors[0].id], "back": page}, page=page)
    assert status == 200
    assert "Into the hard set" in text


def test_a_month_without_labels_says_what_is_needed(root, site):
    status, _, text = site.get("/production/errors?month=2026-09")
    assert status == 200
    assert "No answer of this month has a label" in text
    assert "/label/audit" in text
    for bad in ("2026-13", "x", "<b>"):
        status, _, text = site.get(f"/production/errors?month={bad}")
        assert status == 200
        assert "is not a month: expected" in text
        assert "<b>" not in text.split("<main")[1].split("</main>")[0].replace("<b>0", "")


def test_it_is_measured_again_only_when_something_is_new(root):
    params, log = load_params(root / "params.yaml"), the_log(root)
    asked = []

    def limit(bundle):
        asked.append(bundle)
        return 3.0

    first = error_review(root, params, log, "2026-10", limit)
    assert asked
    assert 0 < first.unfamiliar < first.errors_known
    asked.clear()
    assert error_review(root, params, log, "2026-10", limit) == first
    assert asked == []
    name = first.errors[0].id
    log.add_labels(late_labels({"id": [name], "at": [datetime(2026, 11, 9, tzinfo=UTC)], "annotator": ["eve"],
                                "label": [first.errors[0].prediction], "role": ["reviewer"]}))  # fmt: skip
    again = error_review(root, params, log, "2026-10", limit)
    assert again.errors_known == first.errors_known - 1
    assert months(log) == ["2026-11", "2026-10"]
    assert default_month(log, datetime(2026, 11, 20, tzinfo=UTC)) == "2026-10"
    assert default_month(log, datetime(2026, 12, 2, tzinfo=UTC)) == "2026-11"
    with pytest.raises(EvergreenError, match="'2026-1' is not a month"):
        error_review(root, params, log, "2026-1", limit)


def test_only_images_that_the_live_version_was_trained_on_are_learnt(tmp_path):
    root = released_project.copy(tmp_path)
    train, test = (sha256_bytes(f"image bag 1 {place}".encode()) for place in (0, 2))
    params, live = load_params(root / "params.yaml"), released_project.store(root).live()
    assert learnt_since(root, params, [train, test, "f" * 64], live) == {train: ("train", True), test: ("test", False)}
    assert learnt_since(root, params, [train], None) == {train: ("train", False)}


def test_a_page_does_not_wait_for_a_large_log():
    reviews, go, ran = Reviews(), threading.Event(), []

    def measure():
        ran.append(1)
        go.wait(60)
        raise EvergreenError("the log is gone")

    assert reviews.look("2026-11", measure, patience=0.01) == (None, True)
    assert reviews.look("2026-11", measure, patience=0.01) == (None, True)
    assert len(ran) == 1, "one measurement for all who ask"
    go.set()
    with pytest.raises(EvergreenError, match="the log is gone"):
        reviews.look("2026-11", measure, patience=20)
    assert reviews.look("2026-10", lambda: None, patience=20) == (None, False)
    with pytest.raises(ZeroDivisionError):  # never "no answer has a label"
        reviews.look("2026-09", lambda: 1 // 0, patience=20)


def test_the_terminal_says_the_same(root):
    env = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = command(("errors", "--month", "2026-11", "--most", "2"), root, env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2026-11: 60 answers, 60 with a label; ")
    assert "known errors: " in done.stdout
    assert "/production/errors?month=2026-11" in done.stdout
