"""Leases: between machines that share a release store, one run over the same inputs lives, and a dead one expires.

A machine here is a checkout with state of its own and a process of its own; the store is a folder or an S3 server.
"""

import platform
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from flows.repo import run_inputs, workspace
from flows.runs import launch, lease
from tasks.common.paths import state_dir
from tasks.releases.store import Releases
from tasks.storage.local import LocalStore
from tests.support.checkout import ROOT, git
from tests.support.s3_servers import credentials, moto  # noqa: F401  (fixtures)
from tests.support.stores import opened, shared  # noqa: F401  (fixture)

KEY = "0123456789abcdef01234567"
OTHER = """
import sys
from pathlib import Path
from flows.runs import lease
from tasks.common.params import StoreParams
from tasks.releases.store import Releases
from tasks.storage.places import open_blobs

store = StoreParams.model_validate_json(sys.argv[1])
releases = Releases(open_blobs(store.url, Path("/"), store=store))
lease.take(releases, Path(sys.argv[2]), sys.argv[3], "their-run")
with lease.renewed(releases, sys.argv[3], "their-run", beat=0.1):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def releases(shared) -> Releases:  # noqa: F811
    return Releases(opened(shared))


@pytest.fixture
def machines(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "ours", tmp_path / "theirs"]
    for root in made:
        git(tmp_path, "init", "-q", str(root))
    return made


def other_machine(store, root: Path) -> subprocess.Popen:
    """A machine whose run over KEY lives until it is told to end."""
    command = [sys.executable, "-c", OTHER, store.model_dump_json(), str(root), KEY]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_machine_waits_for_the_end_of_the_first_ones_run(shared, releases, machines):  # noqa: F811
    ours, theirs = machines
    process, said = other_machine(shared, theirs), []
    waiting = threading.Thread(target=lease.take, args=(releases, ours, KEY, "our-run", said.append, 6.0))
    waiting.start()
    waiting.join(8)  # longer than a run may show no life
    ((run, _, at),) = lease.elsewhere(releases, ours)
    assert run == "their-run"
    assert abs((datetime.now(UTC) - at).total_seconds()) < 60
    assert lease.elsewhere(releases, theirs) == []
    assert waiting.is_alive()
    assert len(said) == 1
    assert "run their-run on" in said[0]
    assert said[0].endswith("waiting for it to end")
    process.communicate("end\n")
    waiting.join(120)
    assert not waiting.is_alive()
    assert lease._is_of(releases, KEY, "our-run")


def test_a_killed_machines_lease_expires(shared, releases, machines):  # noqa: F811
    ours, theirs = machines
    process, said = other_machine(shared, theirs), []
    process.kill()
    process.wait()
    began = time.monotonic()
    lease.take(releases, ours, KEY, "our-run", said.append, expires=1.0)
    assert 1.0 <= time.monotonic() - began < 60
    assert said[-1].startswith("run their-run on")
    assert "no sign of life for 1 s: going ahead" in said[-1]


def test_a_run_of_this_very_checkout_is_known_to_be_dead(releases, machines):
    ours, _ = machines
    lease.take(releases, ours, KEY, "killed")
    began = time.monotonic()
    lease.take(releases, ours, KEY, "next", expires=600)
    assert time.monotonic() - began < 60  # of 600


def test_a_run_that_lost_its_lease_leaves_the_new_holders_alone(releases, machines, caplog):
    ours, theirs = machines
    lease.take(releases, theirs, KEY, "suspended")
    with lease.renewed(releases, KEY, "suspended", beat=0.5):
        name = f"leases/{KEY}.json"
        releases.store.remove(name)
        lease.take(releases, ours, KEY, "next")
        while "another run took over these inputs" not in caplog.text:
            time.sleep(0.05)
    assert lease._is_of(releases, KEY, "next")


def test_a_store_that_is_away_for_a_while_costs_the_run_nothing(tmp_path, machines, caplog):
    releases = Releases(LocalStore(tmp_path / "store"))
    lease.take(releases, machines[0], KEY, "our-run")
    file = tmp_path / f"store/leases/{KEY}.json"
    with lease.renewed(releases, KEY, "our-run", beat=0.1):
        file.unlink()
        file.mkdir()  # reading it is an error of the operating system
        while "could not be renewed" not in caplog.text:
            time.sleep(0.05)
    assert "could not be given back" in caplog.text


def test_an_unreadable_lease_expires(releases, machines):
    releases.store.create(f"leases/{KEY}.json", b"{no json")
    lease.take(releases, machines[0], KEY, "next", expires=0.5)
    assert lease._is_of(releases, KEY, "next")


def test_status_shows_runs_on_other_machines(toy: Path, tmp_path: Path, monkeypatch):
    from flows.cli.main import app

    params = yaml.safe_load((toy / "params.yaml").read_text())
    params["store"]["url"] = str(tmp_path / "shared")
    (toy / "params.yaml").write_text(yaml.safe_dump(params))
    git(toy, "commit", "-qam", "one store for all machines")
    git(tmp_path, "clone", "-q", str(toy), "second")
    releases = launch.open_store(launch.load_params(toy / "params.yaml").store, toy)
    lease.take(releases, toy, KEY, "their-run")
    monkeypatch.chdir(tmp_path / "second")
    said = CliRunner().invoke(app, ["status"]).output
    assert f"elsewhere:   their-run on {platform.node()}, last sign of life 2" in said
    assert "dead" not in said
    assert not (tmp_path / "second/.evergreen/holder").exists(), "who only looks holds nothing"
    other = "f" * 24
    releases.store.create(f"leases/{other}.json", b'{"run_id": null, "host": ["a", "list"]}')
    assert "elsewhere:   ? on another machine" in CliRunner().invoke(app, ["status"]).output
    releases.store.remove(f"leases/{other}.json")
    monkeypatch.chdir(toy)
    assert "elsewhere" not in CliRunner().invoke(app, ["status"]).output
    lease.give_back(releases, KEY, "their-run")
    assert lease.elsewhere(releases, tmp_path / "second") == []


def test_what_another_machine_has_run_is_not_run_again(toy: Path, tmp_path: Path):
    """The other machine's ending is told, and known here from then on; nothing starts, no lease stays."""
    params = yaml.safe_load((toy / "params.yaml").read_text())
    params["store"]["url"] = str(tmp_path / "shared")
    (toy / "params.yaml").write_text(yaml.safe_dump(params))
    git(toy, "commit", "-qam", "one store for all machines")
    git(tmp_path, "clone", "-q", str(toy), "second")
    second = tmp_path / "second"
    key, _, ended = run_inputs.current_inputs(toy)
    assert ended is None
    releases = launch.open_store(launch.load_params(toy / "params.yaml").store, toy)
    run_id = workspace.new_run_id(key)
    releases.put_run(run_id, {"key": key, "outcome": "held", "version": None, "sentence": "not better."})
    said: list[str] = []
    assert launch.retrain(second, "schedule", say=said.append) == 0
    assert said[-1] == f"nothing new since run {run_id} (held): not better."
    assert run_inputs.current_inputs(second)[2]["outcome"] == "held"
    assert list(releases.store.list("leases/")) == []
    advice = f"`evergreen approve {run_id}` publishes it."
    approved = {"outcome": "promoted", "version": "v0.1.0", "sentence": f"not better. {advice} Promoted since by ann."}
    releases.put_run(run_id, {"key": key} | approved)  # the advice to approve it is stale now
    assert launch.retrain(second, "schedule", say=said.append) == 0
    assert said[-1] == f"nothing new since run {run_id} (promoted v0.1.0): not better. Promoted since by ann."
    assert not (state_dir(second) / "runs").exists()
