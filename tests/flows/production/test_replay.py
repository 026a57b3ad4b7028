"""`evergreen replay`: captured traffic through any version, compared with the answers that were given."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.production.any_bundle import bundle_of
from flows.production.replay import GIVEN, replay, span
from flows.production.score import score
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.releases.store import open_store
from tests.support.late_labels import late_labels
from tests.support.live_project import make, swapped_bundle, traffic

AT = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = {"since": AT - timedelta(hours=12), "until": AT + timedelta(hours=12)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with 60 scored images, and a bundle `swapped` that calls two classes by each other's name."""
    root = make(tmp_path_factory.mktemp("replay"))
    score(root, str(traffic(root.parent / "traffic.parquet", 1, 60, taken_at=[AT] * 60)))
    swapped_bundle(root, root.parent / "swapped")
    return root


def logged(root: Path) -> list[dict]:
    log = open_log(root, load_params(root / "params.yaml"))
    return log.window(*DAY.values(), ["id", "prediction"])[0].to_pylist()


def test_the_same_model_gives_the_same_answers(root):
    found = replay(root, "v0.1.0", **DAY)
    assert (found.answers, found.found.images, found.found.agreement) == (60, 60, 1.0)
    assert (found.versions, found.against, found.without_image) == ({"v0.1.0": 60}, GIVEN, 0)
    assert found.found.new.latency_ms > 0
    assert found.found.right is None


def test_another_model_is_compared_by_class_and_by_labels(root, tmp_path):
    copy = shutil.copytree(root, tmp_path / "main", symlinks=True)
    rows = logged(copy)
    first, second, *_ = json.loads((copy / "artifacts/bundle/bundle.json").read_text())["classes"]
    moved = [row for row in rows if row["prediction"] in (first, second)]
    log = open_log(copy, load_params(copy / "params.yaml"))
    log.add_labels(
        late_labels(
            {
                "id": [row["id"] for row in rows],
                "at": [AT] * 60,
                "annotator": ["ann"] * 60,
                "label": [row["prediction"] for row in rows],
                "role": ["annotator"] * 60,
                "picked": ["audit"] * 30 + ["queue"] * 30,
            }
        )
    )
    found = replay(copy, str(root.parent / "swapped"), **DAY)
    assert found.found.agree == 60 - len(moved)
    assert {(flip.old, flip.new) for flip in found.found.flips} == {(first, second), (second, first)}
    assert sum(flip.images for flip in found.found.flips) == len(moved)
    audited = rows[:30]
    lost = sum(row["prediction"] in (first, second) for row in audited)
    right = found.found.right
    assert (right.images, right.old, right.lost, right.gained) == (30, 1.0, lost, 0)
    assert found.picked == 30  # what the live model was unsure of would count against it alone
    twice = replay(copy, str(root.parent / "swapped"), against=str(root.parent / "swapped"), **DAY)
    assert (twice.found.agreement, twice.found.right.gained, twice.found.right.lost) == (1.0, 0, 0)


def test_a_sample_a_source_and_a_version_narrow_it(root):
    found = replay(root, "live", most=7, **DAY)
    assert (found.answers, found.found.images) == (60, 7)
    assert replay(root, "live", given_by="v0.1.0", most=5, **DAY).answers == 60
    with pytest.raises(EvergreenError, match=r"no answers of v0.9.0 .* of source cam-7: name another time"):
        replay(root, "live", given_by="v0.9.0", source="cam-7", **DAY)


def test_the_command_prints_a_table_json_and_a_page(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    page = tmp_path / "replay.html"
    runner, times = CliRunner(), ["--since", "2026-11-21", "--until", "2026-11-22"]
    shown = runner.invoke(app, ["replay", str(root.parent / "swapped"), *times, "--page", str(page)])
    assert shown.exit_code == 0, shown.output
    assert "same answer:" in shown.output
    assert "answers that changed" in shown.output
    assert "no image of that time has a true label" in shown.output
    assert "Answers by class" in page.read_text()
    told = runner.invoke(app, ["replay", "v0.1.0", "--hours", "1", "--json"])
    assert json.loads(told.stdout)["found"]["agree"] == 60


def test_images_that_the_log_does_not_keep_are_counted(tmp_path):
    root = make(tmp_path, replace={"images: full": "images: thumbnail"})
    score(root, str(traffic(tmp_path / "traffic.parquet", 1, 5, taken_at=[AT] * 5)))
    found = replay(root, "live", **DAY)
    assert (found.without_image, found.found.images) == (5, 0)


def test_a_name_that_means_no_model_says_what_does(root):
    releases = open_store(load_params(root / "params.yaml").store, root)
    assert bundle_of(root, releases, "live") == bundle_of(root, releases, "r-1")
    for name in ("v9.9.9", "../../etc", ""):
        with pytest.raises(EvergreenError, match=r"is not a model: expected live, a version \(v0.1.0\), a run"):
            bundle_of(root, releases, name)


def test_the_time_defaults_to_the_hours_before_the_newest_answer():
    first, end = span(None, None, AT, 24)
    assert (first, end) == (end - timedelta(hours=24), AT + timedelta(microseconds=1))
    assert span("2026-11-20", "2026-11-21T08:00+02:00", AT, 24) == (
        datetime(2026, 11, 20, tzinfo=UTC),
        datetime(2026, 11, 21, 6, tzinfo=UTC),
    )
    with pytest.raises(EvergreenError, match="--since 'today' is not a time"):
        span("today", None, AT, 24)
