import os
import signal
import subprocess
import sys

import psutil
import pytest

from flows.scale import engine
from tasks.common.errors import EvergreenError
from tasks.common.params import ScaleParams
from tests.support.checkout import ROOT
from tests.support.waiting import until


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_said_at_once(address):
    with pytest.raises(EvergreenError, match=rf"cluster at {address} \(scale.address\) cannot be reached"):
        engine.connect(ScaleParams(engine="ray", address=address))


@pytest.mark.parametrize("address", ["127.0.0.1", "https://example.org", "ray://", "-e:1; true"])
def test_an_address_that_none_is_is_refused(address):
    with pytest.raises(ValueError, match="expected null, auto, host:port or ray://host:port"):
        ScaleParams(address=address)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EvergreenError, match=r"pip install 'evergreen\[ray\]'"):
        engine.installed()


DRIVER = """
import sys
from flows.scale import engine
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
