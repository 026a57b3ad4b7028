"""`evergreen score`: what the live model says of a folder or manifest, in the production log."""

import threading
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from flows.cli.main import app
from flows.production import answering
from flows.production.score import Summary, score
from monitoring.log.production_log import open_log
from serving.predictor import Predictor
from tasks.common import cores
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_file
from tasks.common.params import StoreParams, load_params
from tasks.releases.store import open_store
from tasks.storage.places import open_blobs
from tests.support.labelled_project import png
from tests.support.live_project import VERSION, make, traffic
from tests.support.s3_servers import credentials, moto  # noqa: F401  (fixtures)
from tests.support.small_project import image_bytes

EVER = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make(tmp_path_factory.mktemp("score"))


@pytest.fixture
def log(root, tmp_path, monkeypatch):
    """The project's log, in a folder of this test's own."""
    text = (root / "params.yaml").read_text()
    monkeypatch.setattr("tasks.common.params.load_params", lambda path: _with_log(path, tmp_path / "log"))
    assert "url: .evergreen/production" in text
    from tasks.common import params

    return open_log(root, params.load_params(root / "params.yaml"))


def _with_log(path, folder):
    params = load_params(path)
    return params.model_copy(update={"capture": params.capture.model_copy(update={"url": str(folder)})})


def test_a_manifest_with_times_and_sources(root, log, tmp_path):
    file = traffic(tmp_path / "traffic.parquet", 2, 100)
    found = score(root, str(file))
    wanted = pq.read_table(file)
    logged, unreadable, rows = log.window(*EVER)
    assert (rows, unreadable, found.rows, found.version) == (100, [], 100, VERSION)
    assert sorted(logged["at"].to_pylist()) == sorted(wanted["taken_at"].to_pylist())
    assert sorted(logged["source"].to_pylist()) == sorted(wanted["source"].to_pylist())
    answers = Predictor(root / "artifacts/bundle").predict(logged["image"].to_pylist()[:5])
    assert [answer.label for answer in answers] == logged["prediction"].to_pylist()[:5]
    assert found.needs_review == sum(logged["needs_review"].to_pylist())
    assert sum(found.classes.values()) == 100
    again = score(root, str(file))
    assert again.rows == 100
    assert log.window(*EVER)[2] == 100  # the same source by the same model: nothing new


def test_a_folder_with_what_is_no_image(root, log, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n, data in enumerate([*image_bytes("Bag", 3), b"", b"not an image"]):
        (folder / f"{n}.png").write_bytes(data)
    (folder / "5.png").symlink_to("/etc/hostname")
    found = score(root, str(folder), name="door")
    logged = log.window(*EVER)[0]
    assert logged["source"].to_pylist() == ["door"] * 5
    assert sorted(filter(None, logged["reason"].to_pylist())) == ["empty_file", "unknown_format"]
    assert dict(found.unreadable) == {"empty_file": 1, "unknown_format": 1, "outside_root": 1}
    text = "\n".join(found.lines())
    assert "unreadable: 1 empty_file, 1 outside_root, 1 unknown_format" in text
    assert "4.png: unknown_format" in text


def test_a_layout_gives_source_and_time(root, log, tmp_path):
    for n, data in enumerate(image_bytes("Bag", 3)):
        file = tmp_path / "photos" / ("door" if n < 2 else "north/door") / f"2026-01-0{n + 1}_x.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    found = score(root, str(tmp_path / "photos"), layout="{source}/{time}_{*}")
    logged = log.window(*EVER)[0]
    assert logged["source"].to_pylist() == ["door"] * 2
    assert logged["at"].to_pylist() == [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    assert dict(found.unreadable) == {"bad_path": 1}
    assert "does not fit the layout '{source}/{time}_{*}'" in "\n".join(found.lines())


def test_a_folder_in_name_order_is_one_moment_unless_its_times_are_given(root, log, tmp_path, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(70):  # more than one batch of predictions
        (folder / f"{number:02d}.png").write_bytes(png(np.full((40, 40, 3), 3 * number, np.uint8)))
    found = score(root, str(folder))
    times = set(log.window(*EVER)[0]["at"].to_pylist())
    assert len(times) == 1
    assert found.untimed == 70
    assert f"70 without a time: logged as of {times.pop():%Y-%m-%d %H:%M:%S} UTC" in "\n".join(found.lines())

    monkeypatch.chdir(root)
    command = ["score", str(folder), "--at", "2024-05-03T12:00Z", "--shuffle-time", "24"]
    said = CliRunner().invoke(app, command).output
    assert "times spread at random over the 24 h before 2024-05-03 12:00:00 UTC" in said
    day = (datetime(2024, 5, 2, 12, tzinfo=UTC), datetime(2024, 5, 3, 12, tzinfo=UTC))
    logged = log.window(*day)[0]
    assert len(logged) == 70
    assert len(set(logged["at"].to_pylist())) == 70
    in_time = logged["id"].to_pylist()
    assert in_time not in (sorted(in_time), [sha256_file(file) for file in sorted(folder.iterdir())])
    CliRunner().invoke(app, command)
    assert log.window(*day)[2] == 70  # the same again
    refused = CliRunner().invoke(app, ["score", str(folder), "--at", "soon"])
    assert "--at: 'soon' is not a time" in str(refused.exception)


def test_files_are_written_as_memory_fills(root, log, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.production.score.BUFFER_ROWS", 64)
    moment = datetime(2026, 1, 1, 12, tzinfo=UTC)
    score(root, str(traffic(tmp_path / "t.parquet", 1, 150, taken_at=[moment] * 150)))
    assert len(list(log.store.list("2026-01-01/12/"))) == 3
    assert log.window(*EVER)[2] == 150


def test_two_cores_answer_two_batches_at_once_and_no_answer_is_another_images(root, log, tmp_path, monkeypatch):
    monkeypatch.setattr("flows.production.score.BATCH", 10)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)
    both, plain = threading.Barrier(2, timeout=60), answering.answer_batch

    def noted(model, batch):
        both.wait()
        return plain(model, batch)

    monkeypatch.setattr(answering, "answer_batch", noted)
    file = traffic(tmp_path / "t.parquet", 1, 40, taken_at=[datetime(2026, 1, 1, 12, tzinfo=UTC)] * 40)
    assert score(root, str(file)).rows == 40
    logged = log.window(*EVER)[0]
    expected = Predictor(root / "artifacts/bundle").predict(logged["image"].to_pylist())
    assert logged["prediction"].to_pylist() == [one.label for one in expected]  # each image has its own answer


def test_a_provisional_model_says_so_with_its_answers():
    assert "provisional" not in "".join(Summary("v0.1.0").lines())
    lines = Summary("v0.1.0", "0.4 is below 0.5").lines()
    assert "v0.1.0 is provisional: 0.4 is below 0.5" in lines[1]


def test_nothing_to_score_and_nothing_live(root, log, tmp_path):
    with pytest.raises(EvergreenError, match="does not exist"):
        score(root, str(tmp_path / "absent"))
    (tmp_path / "empty.csv").write_text("path\n")
    with pytest.raises(EvergreenError, match="expected images to score"):
        score(root, str(tmp_path / "empty.csv"))
    (tmp_path / "new").mkdir()
    text = (root / "params.yaml").read_text()
    (tmp_path / "new/params.yaml").write_text(text)
    with pytest.raises(EvergreenError, match="no model is live yet: `evergreen retrain`"):
        score(tmp_path / "new", str(tmp_path))
    releases = open_store(load_params(tmp_path / "new/params.yaml").store, tmp_path / "new")
    releases.put_run(
        "run-1", {"outcome": "rejected", "sentence": "reject: luck.", "remedies": [{"text": "Label more."}]}
    )
    with pytest.raises(EvergreenError, match=r"\(run-1\) ended as rejected. reject: luck.\n.*\n  1. Label more."):
        score(tmp_path / "new", str(tmp_path))


def test_the_command_prints_the_summary(root, log, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    file = traffic(tmp_path / "traffic.parquet", 1, 20)
    result = CliRunner().invoke(app, ["score", str(file)])
    assert result.exit_code == 0, result.output
    assert f"{VERSION} answered 20 images" in result.output
    assert "worth a review: " in result.output


def test_an_s3_prefix(tmp_path, request):
    request.getfixturevalue("credentials")
    server = request.getfixturevalue("moto")
    url = f"s3://{server.bucket()}"
    root = make(tmp_path, replace={"endpoint_url: null": f"endpoint_url: {server.endpoint}"})
    bucket = open_blobs(f"{url}/photos", root, store=StoreParams(endpoint_url=server.endpoint))
    for n, data in enumerate([*image_bytes("Bag", 3), b"no image"]):
        bucket.create(f"day/{n}.png", data)
    found = score(root, f"{url}/photos", name="door")
    assert (found.rows, dict(found.unreadable)) == (4, {"unknown_format": 1})


def test_times_that_cannot_be_read_are_counted_and_the_images_answered_now(root, log, tmp_path):
    file = traffic(tmp_path / "t.parquet", 3, 20)
    table = pq.read_table(file).drop_columns(["taken_at"])
    pq.write_table(table.append_column("taken_at", pa.array(["03.05.2026"] * 20)), file)
    found = score(root, str(file))
    assert (found.rows, len(found.bad_times)) == (20, 20)
    assert any("20 times cannot be read, e.g. '03.05.2026'" in line for line in found.lines())
    assert min(log.window(*EVER)[0]["at"].to_pylist()).date() >= datetime.now(UTC).date() - timedelta(days=1)
