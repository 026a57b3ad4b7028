"""The shadow log: answers that were given unseen are kept apart from those that were given."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.services.housekeeping import housekeeping
from monitoring.log.production_log import open_log
from monitoring.log.shadow import open_recorder, open_shadow_log
from serving.live import Model
from serving.predictor import Predictor
from serving.service.contracts import Answered, Asked
from tasks.common.files import sha256_bytes
from tasks.common.params import load_params
from tests.support import live_project
from tests.support.small_project import CLASSES, image_bytes

EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))
AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
EMPTY = ("image", "thumbnail", "features", "phash", "brightness")  # columns that a shadow row leaves out


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose live model and a challenger answered the same three images."""
    root = live_project.make(tmp_path_factory.mktemp("shadowed"))
    params, predictor = load_params(root / "params.yaml"), Predictor(root / "artifacts/bundle")
    live, new = Model(predictor, "v0.1.0"), Model(predictor, "v0.2.0")
    recorder = open_recorder(root, params, live)
    for number, image in enumerate([*image_bytes(CLASSES[0], 2), b"no image"]):
        asked = Asked(image, f"part-{number}", "cam-1", slices={"shift": "2"})
        (said,) = predictor.predict([image])
        recorder.record(asked, Answered(said, live, "live", 4.0, "q", AT))
        recorder.record(asked, Answered(said, new, "shadow", 5.0, "q", AT))
    (said,) = predictor.predict(image_bytes(CLASSES[1]))
    recorder.record(Asked(image_bytes(CLASSES[1])[0]), Answered(said, new, "canary", 3.0, "q", AT))
    assert recorder.flush()
    given, unseen = recorder.stats
    assert (given.written, unseen.written, given.failed, unseen.failed) == (4, 3, 0, 0)
    recorder.close()
    return root


def test_unseen_answers_are_in_a_log_of_their_own(root):
    params = load_params(root / "params.yaml")
    rows, _, _ = open_shadow_log(root, params).window(*EVER)
    assert rows["version"].to_pylist() == ["v0.2.0"] * 3
    assert sorted(rows["key"].to_pylist()) == ["part-0", "part-1", "part-2"]
    given = open_log(root, params).window(*EVER)[0]
    live = {row["id"]: row for row in given.to_pylist() if row["version"] == "v0.1.0"}
    for row in rows.to_pylist():
        same = [name for name in row if name not in (*EMPTY, "version", "latency_ms") and row[name] is not None]
        assert {name: row[name] for name in same} == {name: live[row["id"]][name] for name in same}
        assert [row[name] for name in EMPTY] == [None] * len(EMPTY)
        assert {"source", "slices", "at", "bundle", *([] if row["reason"] else ["prediction", "ood"])} <= set(same)


def test_a_canarys_answers_are_given_ones_with_its_version(root):
    rows, _, _ = open_log(root, load_params(root / "params.yaml")).window(*EVER)
    of = {row["id"]: row["version"] for row in rows.to_pylist()}
    assert sorted(of.values()) == ["v0.1.0", "v0.1.0", "v0.1.0", "v0.2.0"]
    assert of[sha256_bytes(image_bytes(CLASSES[1])[0])] == "v0.2.0"


def test_housekeeping_removes_unseen_answers_as_it_removes_given_ones(root):
    params = load_params(root / "params.yaml")
    log = open_shadow_log(root, params)
    housekeeping(root, lambda said: None, AT + timedelta(days=params.capture.keep_days, hours=-1))
    assert log.window(*EVER)[2] == 3
    housekeeping(root, lambda said: None, AT + timedelta(days=params.capture.keep_days, hours=2))
    assert log.window(*EVER)[2] == 0
