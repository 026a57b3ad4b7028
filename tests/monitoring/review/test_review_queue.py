"""The review queue: which samples are picked, and what people see of them."""

import csv
from collections import Counter
from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest

from monitoring.log.production_log import Log
from monitoring.log.schema import late_labels_schema, log_schema
from monitoring.review import label_studio
from monitoring.review import page as review_page
from monitoring.review import queue as review_queue
from monitoring.review.asked import Asked, ClassGuide, of_queued
from monitoring.review.page import Frame
from monitoring.review.queue import COLUMNS, Queued, enqueue, queued, waiting
from tasks.common.params import ReviewParams
from tasks.storage.local import LocalStore
from tests.support.review_samples import NOON, answers
from tests.support.small_project import image_bytes

RNG = np.random.default_rng(0)
HOSTILE = '"><script>window.owned = 1</script>'


# --- select


def select(rows, budget, share, known, seen=(), method="margin") -> list[str]:
    """Ids that the queue picks, best first."""
    return list(review_queue.select(rows, budget, share, known, seen, method=method))


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
    chosen = select(answers(100, features=list(features)), 4, 1.0, (), method="diverse")
    assert {int(name[3:]) // 25 for name in chosen} == {0, 1, 2, 3}


def test_the_queue_picks_by_the_method_that_is_set(log):
    p = np.full((100, 3), [0.98, 0.01, 0.01])
    p[7], p[8] = [0.5, 0.49, 0.01], [0.4, 0.3, 0.3]
    log.append(answers(100, probabilities=p.tolist(), ood=np.zeros(100)))
    for method, first in (("margin", "id-7"), ("uncertainty", "id-8")):
        picked = enqueue(log, ReviewParams(budget=1, method=method), NOON, NOON + timedelta(hours=1), "test")
        assert [entry.id for entry in picked] == [first]


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


# --- what people see


def test_the_page_labels_in_a_browser_and_runs_nothing_foreign(tmp_path, visit):
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
    review_page.write(page_file, zip(map(of_queued, entries), images, strict=True), 3, Frame(classes, False, 10**6))
    assert "<script>window" not in page_file.read_text()
    for dark in (True, False):
        shown = visit(page_file, width=390, dark=dark)
        assert (shown.small_targets, shown.faint_texts, shown.unnamed_images) == ([], [], 0)
        assert not shown.scrolls_sideways
    assert shown.images == shown.images_loaded > 0
    page = shown.page
    assert "unknown source" not in shown.text
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    assert page.locator("#save").bounding_box()["y"] >= 0, "the button stays in sight"
    page.fill("#annotator", "Ann, B.")
    page.locator("select").nth(0).select_option("Bag")
    page.locator("select").nth(2).select_option('comma, "quote"')
    assert page.locator("#done").inner_text() == "2 of 3 labelled"
    asked = []
    page.on("dialog", lambda dialog: asked.append(dialog.type))
    page.reload()
    assert asked == ["beforeunload"], "answers that nobody saved are not lost by accident"
    page.fill("#annotator", "Ann, B.")
    page.locator("select").nth(0).select_option("Bag")
    page.locator("select").nth(2).select_option('comma, "quote"')
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / "labels.csv"
    download.value.save_as(saved)
    assert page.evaluate("dispatchEvent(new Event('beforeunload', {cancelable: true}))"), "all is saved"
    assert page.evaluate("window.owned") is None
    assert shown.problems == []
    rows = list(csv.DictReader(saved.read_text().splitlines()))
    assert [(row["id"], row["label"], row["annotator"]) for row in rows] == [
        (entries[0].id, "Bag", "Ann, B."),
        (entries[2].id, 'comma, "quote"', "Ann, B."),
    ]


def test_an_image_without_a_prediction_shows_none_and_the_meaning_of_classes_has_a_heading(tmp_path, visit):
    (image,) = image_bytes("Bag", 1)
    frame = Frame(["Bag"], False, 10**6, [ClassGuide(name="Bag", text="It has a handle")])
    review_page.write(tmp_path / "looks.html", [(Asked(id="1" * 64, why="second look"), image)], 1, frame)
    shown = visit(tmp_path / "looks.html")
    assert shown.page.locator("figcaption").inner_text().strip() == "second look"
    assert shown.page.get_by_role("heading", name="What the classes mean").is_visible()
    assert shown.page.locator("option").first.inner_text() == "choose a label"


def test_the_interface_is_well_formed_whatever_classes_are_called():
    from xml.etree import ElementTree

    root = ElementTree.fromstring(label_studio.config([HOSTILE, "a & b", "'\""], multilabel=True))
    assert [choice.get("value") for choice in root.iter("Choice")] == [HOSTILE, "a & b", "'\"", "(none)", "(exclude)"]
    assert root.find("Choices").get("choice") == "multiple"


def test_the_columns_of_the_queue_are_the_logs():
    assert set(COLUMNS) <= set(log_schema("multiclass").names)
    assert ReviewParams().budget <= review_queue.CANDIDATES
