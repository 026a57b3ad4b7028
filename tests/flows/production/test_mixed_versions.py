"""A canary answers a share of the traffic: every reader of the log tells its answers from the live model's."""

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.console.index.index import Index
from flows.console.index.windows import of_another
from flows.production import reevaluate
from flows.production.act import canary_of
from flows.production.errors import error_review
from flows.production.monitor import monitor
from monitoring.journal import Journal
from monitoring.log.production_log import Log, open_log
from monitoring.log.rows import Answer, log_row, log_table
from monitoring.log.shadow import open_shadow_log
from monitoring.pages import live as live_pages
from monitoring.review.queue import enqueue, queued
from serving.live import Model
from serving.predictor import Predictor
from tasks.common.params import Params, load_params
from tasks.releases import rollout
from tasks.releases.store import Releases, open_store
from tests.support.late_labels import late_labels
from tests.support.live_project import VERSION, make, swapped_bundle
from tests.support.small_project import CLASSES, image_bytes

CHALLENGER = "v0.2.0"
EACH = 36  # images of each class
SECOND = timedelta(seconds=1)
LATER = datetime.now(UTC) + timedelta(hours=1)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A canary with half of the traffic: it answers each second image, and two classes by each other's name.

    Every image has a label, and the challenger's last image was answered by the live model before.
    """
    root = make(tmp_path_factory.mktemp("mixed"))
    params, releases, log = opened(root)
    new = Predictor(swapped_bundle(root, root.parent / "swapped"))
    models = [Model(Predictor(root / "artifacts/bundle"), VERSION), Model(new, CHALLENGER)]
    images = [image for pair in zip(*(image_bytes(name, EACH) for name in CLASSES), strict=True) for image in pair]
    rows = [answered(models[n // len(CLASSES) % 2], image, LATER + n * SECOND) for n, image in enumerate(images)]
    both = rows[-1]
    rows.append(answered(models[0], both["image"], both["at"] - len(rows) * SECOND / 2))
    log.append(log_table(rows, log.task))
    shadow = open_shadow_log(root, params)
    shadow.append(log_table([answered(models[1], images[0], LATER)], log.task))
    truth = {row["id"]: row["prediction"] for row in (answered(models[0], image, LATER) for image in images)}
    log.add_labels(
        late_labels(
            {
                "id": list(truth),
                "at": [LATER] * len(truth),
                "annotator": ["ann"] * len(truth),
                "label": list(truth.values()),
                "role": ["annotator"] * len(truth),
                "picked": ["audit"] * len(truth),
            }
        )
    )
    pointer = releases.live()
    rollout.begin(
        releases,
        rollout.Rollout(
            id=rollout.new_id(LATER),
            strategy="canary",
            run_id="r-2",
            version=CHALLENGER,
            bundle=new.digest,
            champion=pointer.version,
            champion_bundle=pointer.bundle,
            champion_seq=pointer.seq,
            steps=(0.5,),
            since=LATER,
            step_since=LATER,
            by="ann",
            why="a test",
        ),
    )
    return root


def opened(root: Path) -> tuple[Params, Releases, Log]:
    params = load_params(root / "params.yaml")
    return params, open_store(params.store, root), open_log(root, params)


def answered(model: Model, image: bytes, at: datetime) -> dict:
    (said,) = model.predictor.predict([image])
    return log_row(Answer(image, said, model, "cam-1", at, 5.0))


@pytest.fixture(scope="module")
def monitored(root, tmp_path_factory) -> Path:
    copy = shutil.copytree(root, tmp_path_factory.mktemp("monitored") / "main", symlinks=True)
    monitor(copy, print, LATER + timedelta(minutes=5))
    return copy


def test_a_window_measures_the_live_models_answers_only(monitored):
    _, _, log = opened(monitored)
    (window, *_) = [measures.window for measures, _ in Journal(log.store).recent(1)]
    half = EACH * len(CLASSES) // 2
    assert (window.version, window.rows) == (VERSION, half + 1)
    (measures, _) = Journal(log.store).recent(1)[0]
    accuracy = next(one for one in measures.findings if one.name == "accuracy.true")
    assert accuracy.value == pytest.approx(1.0, abs=0.02)  # the canary's mistakes are not its own


def test_each_model_has_weeks_of_its_own_and_the_live_one_speaks(monitored):
    known = live_pages.read(live_pages.reports_dir(monitored))
    right = {one.version: (one.right, one.labels) for one in known.periods}
    assert right[VERSION][0] == right[VERSION][1]
    assert right[CHALLENGER][0] < right[CHALLENGER][1]
    assert live_pages.newest(known.periods, known.live).version == VERSION
    assert live_pages.weeks(known.periods, known.live)[0]["title"].startswith(VERSION)


def test_half_of_the_audit_is_of_the_canarys_answers(monitored):
    _, releases, log = opened(monitored)
    drawn = [entry for entry in queued(log) if entry.picked == "audit"]
    assert {entry.version for entry in drawn} == {VERSION, CHALLENGER}
    assert canary_of(releases, releases.live()) == rollout.active(releases).bundle
    chances = {entry.version: entry.sampling_probability for entry in drawn}
    assert chances[VERSION] == pytest.approx(chances[CHALLENGER], abs=0.01)


def test_the_console_counts_a_window_without_the_canarys_answers(monitored):
    index = Index(monitored)
    while not index.refresh():
        pass
    (row, *_) = index.windows()
    assert index.counts({"window": [row.id]})[0] == row.rows
    assert not of_another("unreleased", VERSION)
    assert not of_another(None, VERSION)
    assert of_another(CHALLENGER, VERSION)


def test_the_live_models_answer_to_an_image_counts_where_a_canary_answered_it_since(root):
    _, releases, log = opened(root)
    live, end = releases.live(), LATER + timedelta(hours=1)
    rows = reevaluate.labelled(log, live.at, end, live.bundle, 1)
    assert len(rows) == EACH * len(CLASSES) // 2 + 1


def test_the_review_queue_ranks_the_answers_of_one_model(root):
    params, releases, log = opened(root)
    copy = Log(log.store, log.task)
    live = releases.live()
    review = params.review.model_copy(update={"budget": 12, "max_source_share": 1.0})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(copy, "labels", lambda *a, **k: log.labels().slice(0, 0))
        picked = enqueue(copy, review, LATER, LATER + timedelta(hours=1), "test", bundle=live.bundle)
    assert {entry.version for entry in picked} == {VERSION}


def test_the_months_review_counts_every_answer_that_was_given_with_its_version(root):
    params, _, log = opened(root)
    found = error_review(root, params, log, f"{LATER:%Y-%m}", lambda bundle: None)
    assert found.errors
    assert {one.version for one in found.errors} == {CHALLENGER}
    assert found.answers == EACH * len(CLASSES)


def test_unseen_answers_reach_no_reader_of_the_log(root):
    _, _, log = opened(root)
    assert len(list(log.answer_keys())) == len(list(log.store.list("2")))
    assert any(key.startswith("shadow/") for key in log.store.list(""))
