"""The process that deploys the project's flows and runs them by schedule, event or button in Prefect.

    python -m flows.services.runner        (in the project's folder, with PREFECT_API_URL set; `evergreen up` does it)

Schedules are in UTC, so no hour is skipped or repeated when clocks change. If any runs were missed while the services
were down, one run makes up for all of them. Redeploying drops the server's late runs, so `missed` counts them itself.
"""

import asyncio
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import Flow
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.runner import Runner

from flows.runs.single_flight import wanted
from flows.server.api import Api
from flows.server.events import EVENTS, PERSON, resource
from flows.server.process import own_api
from flows.services import deployments as flows
from flows.services import pools
from flows.services.runner_times import ANCHOR
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import project_root, state_dir

POLL_SECONDS = 2  # between polls for due runs; Prefect's default of 10 s would dominate the time from alarm to run
TAG = "evergreen"  # of our deployments
WATCH_SECONDS = 60.0  # between two looks at the work pool
PAGE = 200  # objects that Prefect lists at once
FINISHED = ["COMPLETED", "FAILED", "CRASHED", "RUNNING", "PENDING"]


def schedules(params: Params) -> dict[Flow, CronSchedule | IntervalSchedule]:
    """Map each flow to its schedule in params.yaml."""
    serve = params.serve
    return {
        flows.retrain_when_needed: CronSchedule(cron=serve.retrain_cron, timezone="UTC"),
        flows.monitor: IntervalSchedule(
            interval=timedelta(minutes=serve.monitor_minutes), anchor_date=ANCHOR, timezone="UTC"
        ),
        flows.reevaluate: CronSchedule(cron=serve.reevaluate_cron, timezone="UTC"),
        flows.housekeeping: CronSchedule(cron=serve.housekeeping_cron, timezone="UTC"),
    }


def automation_name(name: str, event: str) -> str:
    """Name of the automation by which `event` of the checkout `name` starts a retraining."""
    return f"{name}: {event} starts a retraining"


def automation_owner(automation: str) -> str | None:
    """Name of the checkout (or model) whose `automation` this is; None if it is not one of ours."""
    ends = (automation_name("", event) for event in EVENTS)
    return next((automation.removesuffix(end) for end in ends if automation.endswith(end)), None)


def deployed(params: Params, name: str, folder: Path) -> list[RunnerDeployment]:
    """Make the deployments `<flow>/<name>` with their schedules and the automations that start a retraining.

    name: the checkout's id. Two projects on one Prefect server often have models of the same name.
    """
    made = []
    for flow_, schedule in schedules(params).items():
        triggers = []
        if flow_ is flows.retrain_when_needed:
            triggers = [
                DeploymentEventTrigger(
                    name=automation_name(name, event),
                    expect={event},
                    match={"prefect.resource.id": resource(name)},
                    parameters={"reason": "{{ event.payload.reason }}", "automatic": event != PERSON},
                )
                for event in EVENTS
            ]
        parameters = {"reason": "on schedule", "automatic": True} if flow_ is flows.retrain_when_needed else {}
        made.append(
            flow_.to_deployment(
                name=name,
                schedules=[DeploymentScheduleCreate(schedule=schedule, parameters=parameters)],
                triggers=triggers,
                description=f"{params.bundle.name} in {folder}: {flow_.description or flow_.name}",
                tags=[TAG],
                entrypoint_type=EntrypointType.MODULE_PATH,
            )
        )
    return made


async def missed(schedule: CronSchedule | IntervalSchedule, last: datetime | None, now: datetime) -> int:
    """Count the runs that were due after `last`, the newest that ran (None: none ever ran), up to `now`."""
    if last is None:
        return 0
    from prefect.server.schemas import schedules as server

    same = getattr(server, type(schedule).__name__)(**schedule.model_dump())
    return len(await same.get_dates(n=1000, start=last + timedelta(seconds=1), end=now))


def last_run(api: Api, deployment: str) -> datetime | None:
    """When the newest run of deployment id `deployment` was due; only runs that took place count."""
    body = {
        "flow_runs": {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": FINISHED}}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    runs = api.post("/flow_runs/filter", body)
    return datetime.fromisoformat(runs[0]["expected_start_time"]) if runs else None


def mark_dead(api: Api, name: str, root: Path) -> int:
    """Mark flow runs of the deployments called `name` whose process died as crashed; returns how many."""
    body = {
        "deployments": {"name": {"any_": [name]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
        "limit": 200,
    }
    dead = [run for run in api.post("/flow_runs/filter", body) if not flows.is_alive(root, run["id"])]
    state = {"type": "CRASHED", "message": "its process died"}
    for run in dead:
        api.post(f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    return len(dead)


async def make_up(api: Api, name: str, params: Params, root: Path, now: datetime) -> list[str]:
    """Start one run for each deployment that missed any; returns the names of those runs."""
    started = []
    for flow_, schedule in schedules(params).items():
        (about,) = api.post(
            "/deployments/filter",
            {"deployments": {"name": {"any_": [name]}}, "flows": {"name": {"any_": [flow_.name]}}},
        )
        due = await missed(schedule, last_run(api, about["id"]), now)
        reasons = wanted(root) if flow_ is flows.retrain_when_needed else []
        if not due and not reasons:
            continue
        why = f"{due} scheduled run(s) were missed" if due else "a retraining was interrupted"
        parameters = {"reason": why, "automatic": True} if flow_ is flows.retrain_when_needed else {}
        state = {"type": "SCHEDULED", "message": why}
        run = api.post(f"/deployments/{about['id']}/create_flow_run", {"state": state, "parameters": parameters})
        started.append(run["name"])
    return started


def remove_old(api: Api, root: Path, params: Params, name: str) -> int:
    """Delete deployments and automations that an earlier version, or the folder this is a copy of, left.

    name: of the deployments that stay. On this checkout's own server all others of ours go. On a server or a database
    for many, only those that have the model's name (versions before 0.3 gave it to them) and those that `serve.pool`
    does not want.
    Returns how many were deleted.
    """
    own, checkout_id = own_api(root), checkout(root).id
    shared = os.environ.get(params.serve.database_env)  # a database that other projects may use as well
    alone = own is not None and own.url == api.url and not shared
    old = {params.bundle.name, checkout_id, pools.pooled_name(checkout_id)} - {name}
    gone = 0
    for deployment in _all(api, "/deployments/filter", {"deployments": {"tags": {"all_": [TAG]}}}):
        if deployment["name"] in old or (alone and deployment["name"] != name):
            api.call("DELETE", f"/deployments/{deployment['id']}")
            gone += 1
    for automation in _all(api, "/automations/filter", {}):
        owner = automation_owner(automation["name"])
        if owner is not None and (owner in old or (alone and owner != name)):
            api.call("DELETE", f"/automations/{automation['id']}")
            gone += 1
    return gone


def _all(api: Api, path: str, where: dict) -> list[dict]:
    """Everything that a filter of Prefect's finds, page by page."""
    found: list[dict] = []
    while True:
        page = api.post(path, where | {"limit": PAGE, "offset": len(found)})
        found += page
        if len(page) < PAGE:
            return found


async def serve(root: Path, params: Params, made: list[RunnerDeployment], name: str) -> None:
    """Deploy the flows, make up for missed runs, then run what is due until SIGTERM."""
    api = _api()
    remove_old(api, root, params, name)
    # pausing the schedules at shutdown would drop what falls due while this process restarts
    runner = Runner(name=f"evergreen-{name}", query_seconds=POLL_SECONDS, pause_on_shutdown=False)
    for deployment in made:
        await runner.aadd_deployment(deployment)
    mark_dead(api, name, root)
    await _made_up(api, name, params, root)
    await runner.start()


async def serve_pool(root: Path, params: Params, name: str) -> None:
    """Deploy the flows to the work pool, make up for missed runs, then wait for SIGTERM: workers run what is due.

    Workers tell Prefect of runs that died: from here, a run in a container or on another machine cannot be judged.
    Raises EvergreenError once the pool is not the one that it was.
    """
    api = _api()
    pool = pools.find_pool(api, params.serve.pool)
    pools.deploy(root, params, api)
    remove_old(api, root, params, name)
    await _made_up(api, name, params, root)
    await watch_pool(api, params.serve.pool, pool)


async def watch_pool(api: Api, name: str, pool: dict | None) -> None:
    """Return never; raise EvergreenError once `pool` is gone, because Prefect then unties our deployments from it.

    The supervisor starts this process again, and it deploys the flows to a new pool of the name.
    """
    while True:
        await asyncio.sleep(WATCH_SECONDS)
        try:
            found = await asyncio.to_thread(pools.find_pool, api, name)
        except EvergreenError:  # Prefect is away for a moment
            continue
        if found is None or found["id"] != (pool or {}).get("id"):
            raise EvergreenError(f"the work pool {name!r} was deleted: its flows must be deployed again")


async def _made_up(api: Api, name: str, params: Params, root: Path) -> None:
    """Make up for missed runs, then say that the flows are deployed."""
    started = await make_up(api, name, params, root, datetime.now(UTC))
    write_json(state_dir(root) / "serving.json", {"pid": os.getpid(), "made_up": started})


def _api() -> Api:
    if (api := Api.from_environment()) is None:
        raise EvergreenError("PREFECT_API_URL is not set: `evergreen up` starts the runner with it")
    return api


def main() -> None:
    """Serve the project of the current folder."""
    root = project_root()
    params, name = load_params(root / "params.yaml"), checkout(root).id
    if params.serve.pool:
        asyncio.run(serve_pool(root, params, pools.pooled_name(name)))
        return
    made = deployed(params, name, root)  # outside the event loop: inside it, Prefect returns coroutines
    asyncio.run(serve(root, params, made, name))


if __name__ == "__main__":
    main()
