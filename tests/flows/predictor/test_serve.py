"""`evergreen serve` for real: answers, swaps, switches, killed workers, stops; the tests build on each other."""

import os
import shutil
import signal

import psutil
import pyarrow.parquet as pq
import pytest

from flows.doctor import servers
from flows.predictor.pin import pin
from flows.predictor.run import listen
from flows.predictor.serve import compose, settings
from flows.predictor.status import lines
from flows.services import overview
from tasks.common.errors import EvergreenError
from tasks.common.params import PredictorParams, load_params
from tasks.releases.switches import end_pin, set_humans_only
from tests.support.checkout import ROOT
from tests.support.children import command
from tests.support.live_project import VERSION, make
from tests.support.second_release import release
from tests.support.served import served
from tests.support.small_project import CLASSES, image_bytes
from tests.support.waiting import until

SET = {"refresh_seconds: 5.0": "refresh_seconds: 0.2", "flush_seconds: 10": "flush_seconds: 0.5"}
(IMAGE,) = image_bytes("Bag")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    root = make(tmp_path_factory.mktemp("served"), replace=SET)
    with served(root) as running:
        yield running


def evergreen(root, *arguments: str, code: int = 0) -> str:
    done = command(arguments, root, os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"})
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def logged(root) -> list[dict]:
    """The rows of the production log."""
    files = (root / ".evergreen/production").rglob("*.parquet")
    return [row for file in files for row in pq.read_table(file, columns=["key", "version", "prediction"]).to_pylist()]


def failed(got: list) -> list:
    return [one for one in got if one[0] != 200]


def test_it_answers_with_the_live_model_and_logs_the_answer(service):
    found = service.predict(IMAGE, key="order-7")
    assert (found["version"], found["key"]) == (VERSION, "order-7")
    assert service.get("/model")[1]["version"] == VERSION
    assert service.get("/ready")[0] == 200
    (row,) = until(lambda: [row for row in logged(service.root) if row["key"] == "order-7"])
    assert (row["version"], row["prediction"]) == (VERSION, found["label"])


def test_every_route_but_health_wants_the_secret(service):
    assert service.get("/health", Authorization="")[0] == 200
    for path in ("/model", "/ready", "/predict", "/nothing"):
        for given in ("", "Bearer wrong", "Bearer é"):
            status, found = service.get(path, Authorization=given)
            assert (status, found["reason"]) == (401, "unauthorized")


def test_a_new_champion_answers_without_a_lost_request(service):
    with service.traffic(IMAGE) as got:
        release(service.root, CLASSES[1], "v0.2.0")
        until(lambda: all(one["models"] == {"live": "v0.2.0"} for one in service.about()["workers"]), 60)
        asked = len(got)
        until(lambda: len(got) > asked + 20)
    assert not failed(got)
    assert got[0][1]["version"] == VERSION
    assert {service.predict(IMAGE)["version"] for _ in range(6)} == {"v0.2.0"}
    assert service.get("/model")[1]["version"] == "v0.2.0"


def test_a_pin_and_humans_only_hold_within_the_refresh(service):
    pin(service.root, VERSION, "ann", say=lambda _: None)
    until(lambda: service.predict(IMAGE)["version"] == VERSION)
    set_humans_only(service.root, True, "ann")
    until(lambda: all(service.predict(IMAGE)["needs_review"] for _ in range(4)))
    until(lambda: all(one["humans_only"] and one["pinned"] == VERSION for one in service.about()["workers"]))
    set_humans_only(service.root, False, "ann")
    end_pin(service.root, "ann")
    until(lambda: {service.predict(IMAGE)["version"] for _ in range(4)} == {"v0.2.0"})
    until(lambda: not any(service.predict(IMAGE)["needs_review"] for _ in range(4)))


def test_a_killed_worker_is_replaced_and_the_others_go_on(service):
    until(lambda: len(service.pids()) == 2)
    first, second = service.pids()
    with service.traffic(IMAGE, clients=4) as got:
        os.kill(first, signal.SIGKILL)
        until(lambda: len(service.pids()) == 2 and first not in service.pids())
        after = len(got)
        until(lambda: len(got) > after + 20)
    assert second in service.pids()
    assert len(failed(got)) <= 4, "at most the requests that the killed worker was answering"
    assert not failed(got[after:])
    assert "a new one starts" in service.log.read_text()


def test_workers_are_replaced_one_by_one_without_a_lost_request(service):
    before = set(service.pids())
    with service.traffic(IMAGE, clients=4) as got:
        overview.restart(service.root, "predictor")
        until(lambda: "all workers are new" in service.log.read_text())
        until(lambda: not any(psutil.pid_exists(pid) for pid in before))
    assert not failed(got)
    assert len(set(service.pids()) - before) == 2


def test_people_see_where_it_runs_and_what_is_switched(service):
    until(lambda: len(service.pids()) == 2)
    (line,) = lines(service.root)
    assert line == f"v0.2.0 at http://127.0.0.1:{service.at[1]}, 2 of 2 workers"
    assert [(one.name, one.well, one.restarts) for one in overview.overview(service.root)][-1] == ("predictor", True, 1)
    params = load_params(service.root / "params.yaml")
    assert servers.predictor(service.root, params).state == "ok"
    set_humans_only(service.root, True, "ann", "a new camera")
    assert f"{line}\npredictor:   people look at every answer" in "\npredictor:   ".join(lines(service.root))
    assert "a new camera" in evergreen(service.root, "status")
    found = servers.predictor(service.root, params)
    assert found.state == "warning"
    assert "a new camera" in found.text
    set_humans_only(service.root, False, "ann")


def test_without_a_service_doctor_says_whether_one_is_wanted(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    params = load_params(tmp_path / "params.yaml")
    assert servers.predictor(tmp_path, params).state == "ok"
    wanted = params.model_copy(update={"predictor": params.predictor.model_copy(update={"with_up": True})})
    assert "evergreen up" in servers.predictor(tmp_path, wanted).cure


def test_a_second_service_of_the_checkout_is_refused(service):
    assert "runs already" in evergreen(service.root, "serve", code=1)


def test_a_port_that_another_program_has_is_an_error(monkeypatch):
    monkeypatch.setattr("flows.predictor.run.BIND_SECONDS", 0.2)
    with listen("127.0.0.1", 0) as taken, pytest.raises(EvergreenError, match=r"cannot listen .* predictor.port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_when_it_stops_every_answer_is_in_the_log(service):
    before = len(logged(service.root))
    with service.traffic(IMAGE) as got:
        service.process.terminate()
        until(lambda: service.process.poll() is not None)
    assert len(logged(service.root)) - before >= len(got) - len(failed(got))
    assert service.process.returncode == 0
    assert not (service.root / ".evergreen/predictor/service.json").exists()


def test_workers_end_with_a_supervisor_that_was_killed_and_the_next_one_starts(service):
    with served(service.root, "--wait") as other:
        workers = [psutil.Process(pid) for pid in other.pids()]
        other.process.kill()
        other.process.wait()
        assert psutil.wait_procs(workers, timeout=60)[1] == []
    store = service.root / ".evergreen/releases"
    store.rename(away := store.with_name("away"))
    store.mkdir()  # an empty folder, as a mount that is gone leaves one
    with served(service.root) as again:
        assert again.predict(IMAGE)["version"] == "v0.2.0"
    shutil.rmtree(store)
    away.rename(store)


def test_without_a_released_model_it_says_what_to_do(tmp_path):
    root = make(tmp_path)
    releases = root / ".evergreen/releases"
    (releases / "champion.json").unlink()
    for file in (releases / "pointers").iterdir():
        file.unlink()
    assert "no model is live yet" in evergreen(root, "serve", "--port", "0", code=1)


@pytest.mark.parametrize("key", ["decoders", "max_batch", "deadline_seconds", "max_images", "cache_mb", "queue"])
def test_every_limit_of_params_yaml_reaches_the_workers(key):
    other = PredictorParams().model_copy(update={key: 40, "max_images": 8})
    first = PredictorParams().model_copy(update={"max_images": 8 if key != "max_images" else 7})
    assert settings(first) != settings(other)


def test_the_service_listens_where_params_yaml_says(tmp_path):
    other = {"host: 127.0.0.1\n  port: 4290\n  workers: 2": "host: 127.0.0.9\n  port: 4297\n  workers: 1"}
    with served(make(tmp_path, replace=other), where=()) as running:
        assert running.at == ("127.0.0.9", 4297)
        assert len(running.about()["workers"]) == 1
        assert running.get("/ready")[0] == 200


def test_each_worker_computes_with_so_many_threads(service):
    params = load_params(service.root / "params.yaml")
    two = params.model_copy(update={"predictor": params.predictor.model_copy(update={"threads": 2})})
    sessions = [compose(service.root, one).router.models()["live"].predictor._model._session for one in (params, two)]
    assert [one.get_session_options().intra_op_num_threads for one in sessions] == [1, 2]


def test_an_image_may_be_as_large_as_is_set():
    assert settings(PredictorParams(max_bytes=123)).max_bytes == 123
    large = settings(PredictorParams(max_bytes=1 << 30))
    assert large.max_request_bytes > (1 << 30) * 4 // 3, "a request must hold one image at least, in base64, too"


def test_more_images_than_could_ever_wait_are_refused_in_params_yaml():
    with pytest.raises(ValueError, match="max_images 64 is over queue 32: no request of so many could fit"):
        PredictorParams(queue=32)
