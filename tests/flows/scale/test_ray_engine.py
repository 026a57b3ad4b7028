import os
import signal
import subprocess
import sys

import psutil
import pytest

from flows.scale import engine
from flows.scale.start import running_here
from tasks.common.errors import EvergreenError
from tasks.common.params import ScaleParams
from tests.support.checkout import ROOT
from tests.support.waiting import until


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_said_at_once(address):
    with pytest.raises(EvergreenError, match=rf"cluster at {address} \(scale.address\) cannot be reached"):
        engine.connect(ScaleParams(engine="ray", address=address))


def test_a_run_asks_before_its_first_stage_whether_the_cluster_answers():
    engine.check_usable(ScaleParams(address="127.0.0.1:9"))  # the engine is local
    engine.check_usable(ScaleParams(engine="ray"))
    with pytest.raises(
        EvergreenError, match=r"cannot be reached: .*refused\. Start the cluster, correct scale\.address"
    ):
        engine.check_usable(ScaleParams(engine="ray", address="127.0.0.1:9"))


def test_auto_asks_the_cluster_that_ray_names(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(EvergreenError, match=r"cluster at 127\.0\.0\.1:9 .* cannot be reached"):
        engine.connect(ScaleParams(engine="ray", address="auto"))


def test_auto_forgets_heads_that_have_ended(monkeypatch):
    from ray._private import services

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in ("127.0.0.1:7", "127.0.0.1:8"):
        node = ["raylet", "-c", "print(1, flush=True); input()", f"--gcs-address={address}"]  # what Ray looks for
        with subprocess.Popen(node, executable=sys.executable, stdin=-1, stdout=-1) as process:
            assert process.stdout.readline() == b"1\n"
            running_here()
            found = services.find_gcs_addresses()
            process.kill()
        assert address in found
    assert "127.0.0.1:7" not in found


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no such host.\nMore.", "no such host."),
        (
            "Initialization failure from server:\nTraceback:\n  x = 1\nRuntimeError: no room",
            "server: RuntimeError: no room.",
        ),
        ("", "ConnectionError."),
    ],
)
def test_what_ray_says_of_a_failed_connection_is_said_in_one_line(text, why):
    said = str(engine._said(ConnectionError(text), "ray://head:10001"))
    assert said.startswith("the Ray cluster at ray://head:10001 (scale.address) cannot be reached: ")
    assert said.endswith(f" {why} {engine.START}")


def test_a_node_that_starts_too_late_is_said_as_a_cluster_that_did_not_start():
    late = engine._said(Exception("The current node timed out during startup. This could happen."), None)
    assert isinstance(late, engine.ClusterLost)
    assert str(late).startswith("no Ray cluster could be started on this machine: The current node timed out")
    assert isinstance(engine._said(KeyError("a bug"), None), KeyError)


@pytest.mark.parametrize("address", ["127.0.0.1", "https://example.org", "ray://", "-e:1; true", "host:99999"])
def test_an_address_that_none_is_is_refused(address):
    with pytest.raises(ValueError, match="expected null, auto, host:port or ray://host:port"):
        ScaleParams(address=address)


@pytest.mark.parametrize("shared", ["", "s3://", "gs://bucket/place"])
def test_a_place_that_none_is_is_refused(shared):
    with pytest.raises(ValueError, match="expected null, a folder or s3://bucket/prefix"):
        ScaleParams(shared=shared)


@pytest.mark.parametrize("workers", [True, 10**11, -1])
def test_a_number_of_workers_that_none_is_is_refused(workers):
    with pytest.raises(ValueError, match="training_workers"):
        ScaleParams(training_workers=workers)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvergreenError, match=r"pip install 'evergreen\[ray\]'"):
        engine.installed()


DRIVER = """
import sys
from flows.scale import engine
from flows.scale.start import running_here
from flows.scale.map import ray_map
from tasks.common.params import ScaleParams
engine.connect(ScaleParams(engine="ray"))
print(sum(ray_map(abs, [-1, -2], in_flight=2)), flush=True)
sys.stdin.read()
"""


@pytest.mark.long
def test_a_local_cluster_listens_on_loopback_and_ends_with_its_driver_also_after_kill_9(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", DRIVER], stdin=-1, stdout=-1, stderr=-1, env=env) as driver:
        assert driver.stdout.readline() == b"3\n"
        started = psutil.Process(driver.pid).children(recursive=True)
        names = {process.name() for process in started}
        assert {"gcs_server", "raylet"} <= names
        places = {
            place.laddr.ip
            for process in started
            for place in process.net_connections("inet")
            if place.status == psutil.CONN_LISTEN
        }
        assert places
        assert places <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert driver.stderr.read() == b""  # nothing of Ray in the user's terminal
    # all but Ray's two agents are gone within seconds; those wait a minute for the head to come back
    until(lambda: not any(runs(process) for process in started), 180, "processes of Ray are left")


def runs(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
