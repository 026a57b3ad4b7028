"""`serve.pool`: flows in a Prefect work pool, with a real server on Postgres, a real deployment and a real worker.

One server serves the whole module; the tests build on each other.
"""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from flows.doctor import servers
from flows.server import process
from flows.server.api import Api
from flows.server.environment import environment
from flows.server.events import EVENTS, PERSON
from flows.services import overview, pools, runner, up
from flows.services.sign_in import export_lines
from monitoring.seen import last_seen
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json, write_json
from tasks.common.params import load_params
from tests.support.checkout import ROOT
from tests.support.live_project import make
from tests.support.postgres import ask, postgres
from tests.support.waiting import until

POOL = "cameras"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """(project with a live model whose flows are for a work pool, the API of its server)."""
    port = process.free_port(0)
    changes = {"pool: null": f"pool: {POOL}", "prefect_port: 4200": f"prefect_port: {port}"}
    root = make(tmp_path_factory.mktemp("pools"), replace=changes)
    shutil.copytree(ROOT / "flows", root / "flows")
    shutil.copy(ROOT / "prefect.yaml", root)
    with postgres() as database, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("EVERGREEN_DATABASE_URL", database)
        try:
            yield root, process.ensure_server(root)
        finally:
            process.stop_server(root)


def params(root: Path):
    return load_params(root / "params.yaml")


def signed_in(root: Path) -> dict[str, str]:
    """The environment of a shell after `eval "$(evergreen open --env)"`."""
    script = "\n".join([*export_lines(root), "env -0"])
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in told.rstrip("\0").split("\0"))


def started(command: list[str], folder: Path, env: dict[str, str], log: Path) -> psutil.Popen:
    with open(log, "wb") as out:
        return psutil.Popen([sys.executable, "-m", *command], cwd=folder, env=env, stdout=out, stderr=out)


def stop(process: psutil.Popen) -> None:
    for each in [*process.children(recursive=True), process]:
        each.kill()  # a worker that is only told to end waits for its runs
    process.wait(120)


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_prefect_takes_the_job_templates_and_a_pool_without_a_worker_is_told(project, kind):
    root, api = project
    template = json.loads((ROOT / f"deploy/pool-{kind}.json").read_text())
    api.post("/work_pools/", {"name": kind, "type": kind, "base_job_template": template})
    serve = params(root).serve.model_copy(update={"pool": kind})
    trouble, cure = pools.pool_trouble(params(root).model_copy(update={"serve": serve}), api)
    assert "no worker polls" in trouble
    assert f"prefect worker start --pool {kind}" in cure


def test_without_the_pool_or_prefect_yaml_the_message_says_what_to_do(project, tmp_path):
    root, api = project
    assert servers.work_pool(root, params(ROOT)).text.startswith("none (serve.pool)")
    assert servers.work_pool(root, params(root)).text == f"Prefect has no work pool '{POOL}'"
    with pytest.raises(EvergreenError, match=rf"no work pool '{POOL}'.*prefect worker start --pool {POOL}"):
        pools.deploy(root, params(root), api)
    with pytest.raises(EvergreenError, match=r"prefect.yaml is missing: `evergreen upgrade`"):
        pools.deploy(tmp_path, params(root), api)


def test_a_worker_of_the_pool_runs_the_flows_and_up_runs_none(project, tmp_path):
    root, api = project
    worker = started(["prefect", "worker", "start", "--pool", POOL, "--type", "process"], tmp_path,
                     signed_in(root), tmp_path / "worker.log")  # fmt: skip
    until(lambda: pools.find_pool(api, POOL))
    env = environment(root) | api.environment()
    deployer = started(["flows.services.runner"], root, env, tmp_path / "runner.log")
    try:
        until(lambda: (root / ".evergreen" / up.DEPLOYED).exists() or not deployer.is_running())
        assert read_json(root / ".evergreen" / up.DEPLOYED)["pid"] == deployer.pid, (
            tmp_path / "runner.log"
        ).read_text()
        name = pools.pooled_name(checkout(root).id)
        assert pools.outdated(params(root), pools.deployed_schedules(api, name)) == []
        # Prefect plans the runs of a deployment some time after it was made
        until(lambda: {flow for flow, _ in up.next_runs(api, checkout(root).id)} == set(pools.FLOWS), 120)
        assert servers.work_pool(root, params(root)).state == "ok"
        about = {"pid": deployer.pid, "checkout": checkout(root).id, "since": datetime.now(UTC).isoformat()}
        write_json(root / ".evergreen/services.json", about | {"services": {}})  # as the supervisor does
        assert f"pool:        {POOL} has a worker" in up.status_lines(root)

        overview.run_now(root, "monitor", "ann")
        until(lambda: ended(api))
        assert last_seen(root) is not None, "the window is in the project's own log"
        assert deployer.children() == [], "a worker's process ran it"
        assert_events_start_retrainings(api, checkout(root).id)
    finally:
        stop(deployer)
        stop(worker)


def ended(api: Api) -> bool:
    """Whether a run ended well in the pool; fails if one failed."""
    runs = api.post("/flow_runs/filter", {"limit": 200})
    states = {run["state_type"] for run in runs if run["work_pool_name"] == POOL and run["start_time"]}
    assert not states & {"FAILED", "CRASHED"}, runs
    return "COMPLETED" in states


def assert_events_start_retrainings(api: Api, checkout_id: str) -> None:
    """Each event of this checkout starts the pool's retraining; a pause stops all but what a person asks for."""
    found = api.post("/automations/filter", {})
    assert {one["name"] for one in found} == {
        runner.automation_name(pools.pooled_name(checkout_id), event) for event in EVENTS
    }
    for one in found:
        (event,) = one["trigger"]["expect"]
        assert one["trigger"]["match"] == {"prefect.resource.id": f"evergreen.{checkout_id}"}
        assert one["actions"][0]["parameters"] == {
            "reason": "{{ event.payload.reason }}",
            "automatic": event != PERSON,
        }


def test_a_pool_that_was_deleted_ends_the_process_which_deploys_to_it(project, monkeypatch):
    _, api = project
    monkeypatch.setattr(runner, "WATCH_SECONDS", 0.01)
    with pytest.raises(EvergreenError, match=f"work pool '{POOL}' was deleted"):
        asyncio.run(runner.watch_pool(api, POOL, {"id": "of the one before"}))
    with pytest.raises(TimeoutError):
        asyncio.run(asyncio.wait_for(runner.watch_pool(api, POOL, pools.find_pool(api, POOL)), 1))


def test_without_the_setting_the_pools_deployments_and_automations_go(project):
    root, api = project
    flow = api.post("/flows/", {"name": "monitor"})["id"]
    other = api.post("/deployments/", {"name": "of another project", "flow_id": flow, "tags": [runner.TAG]})["id"]
    assert runner.remove_old(api, root, params(root), checkout(root).id) == len(pools.FLOWS) + len(EVENTS)
    assert api.call("GET", f"/deployments/{other}"), "projects with one database leave each other's alone"
    assert up.next_runs(api, checkout(root).id) == []
    assert api.post("/automations/filter", {}) == []


def test_prefects_history_is_in_postgres_and_its_password_in_no_file(project):
    root, api = project
    database = os.environ["EVERGREEN_DATABASE_URL"]
    (known,) = {run["id"] for run in api.post("/flow_runs/filter", {}) if run["state_type"] == "COMPLETED"}
    kept = ask(database, "select id from flow_run where state_type = 'COMPLETED'")
    assert [str(id_) for (id_,) in kept] == [known]
    assert not (root / ".evergreen/prefect/prefect.db").exists()
    password = urlsplit(database).password
    files = [file for file in (root / ".evergreen").rglob("*") if file.is_file()]
    assert not [file for file in files if password.encode() in file.read_bytes()]
    commands = [part for one in psutil.process_iter(["cmdline"]) for part in one.info["cmdline"] or []]
    assert not [part for part in commands if password in part]
