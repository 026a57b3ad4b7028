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
from flows.server.api import post
from flows.server.events import EVENTS, resource
from flows.services import deployments as flows
from tasks.common.files import write_json
from tasks.common.params import Params, load_params
from tasks.common.paths import project_root, state_dir

POLL_SECONDS = 2  # between polls for due runs; Prefect's default of 10 s would dominate the time from alarm to run
ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)  # start of all intervals, so that a restart does not shift them
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


def deployed(params: Params) -> list[RunnerDeployment]:
    """Make the deployments `<flow>/<model name>` with their schedules and the automations that start a retraining."""
    name = params.bundle.name
    made = []
    for flow_, schedule in schedules(params).items():
        triggers = []
        if flow_ is flows.retrain_when_needed:
            triggers = [
                DeploymentEventTrigger(
                    name=f"{name}: {event} starts a retraining",
                    expect={event},
                    match={"prefect.resource.id": resource(name)},
                    parameters={"reason": "{{ event.payload.reason }}"},
                )
                for event in EVENTS
            ]
        parameters = {"reason": "on schedule"} if flow_ is flows.retrain_when_needed else {}
        made.append(
            flow_.to_deployment(
                name=name,
                schedules=[DeploymentScheduleCreate(schedule=schedule, parameters=parameters)],
                triggers=triggers,
                tags=["evergreen"],
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


def last_run(api: str, deployment: str) -> datetime | None:
    """When the newest run of deployment id `deployment` was due; only runs that took place count."""
    body = {
        "flow_runs": {"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": FINISHED}}},
        "sort": "EXPECTED_START_TIME_DESC",
        "limit": 1,
    }
    runs = post(f"{api}/flow_runs/filter", body)
    return datetime.fromisoformat(runs[0]["expected_start_time"]) if runs else None


def mark_dead(api: str, name: str, root: Path) -> int:
    """Mark flow runs of the deployments called `name` whose process died as crashed; returns how many."""
    body = {
        "deployments": {"name": {"any_": [name]}},
        "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}},
        "limit": 200,
    }
    dead = [run for run in post(f"{api}/flow_runs/filter", body) if not flows.is_alive(root, run["id"])]
    state = {"type": "CRASHED", "message": "its process died"}
    for run in dead:
        post(f"{api}/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    return len(dead)


async def make_up(api: str, name: str, params: Params, root: Path, now: datetime) -> list[str]:
    """Start one run for each deployment that missed any; returns the names of those runs."""
    started = []
    for flow_, schedule in schedules(params).items():
        (about,) = post(
            f"{api}/deployments/filter",
            {"deployments": {"name": {"any_": [name]}}, "flows": {"name": {"any_": [flow_.name]}}},
        )
        due = await missed(schedule, last_run(api, about["id"]), now)
        reasons = wanted(root) if flow_ is flows.retrain_when_needed else []
        if not due and not reasons:
            continue
        why = f"{due} scheduled run(s) were missed" if due else "a retraining was interrupted"
        parameters = {"reason": why} if flow_ is flows.retrain_when_needed else {}
        state = {"type": "SCHEDULED", "message": why}
        run = post(f"{api}/deployments/{about['id']}/create_flow_run", {"state": state, "parameters": parameters})
        started.append(run["name"])
    return started


async def serve(root: Path, params: Params, made: list[RunnerDeployment]) -> None:
    """Deploy the flows, make up for missed runs, then run what is due until SIGTERM."""
    # pausing the schedules at shutdown would drop what falls due while this process restarts
    runner = Runner(name=f"evergreen-{params.bundle.name}", query_seconds=POLL_SECONDS, pause_on_shutdown=False)
    for deployment in made:
        await runner.aadd_deployment(deployment)
    api = os.environ["PREFECT_API_URL"]
    mark_dead(api, params.bundle.name, root)
    started = await make_up(api, params.bundle.name, params, root, datetime.now(UTC))
    write_json(state_dir(root) / "serving.json", {"pid": os.getpid(), "made_up": started})
    await runner.start()


def main() -> None:
    """Serve the project of the current folder."""
    root = project_root()
    params = load_params(root / "params.yaml")
    made = deployed(params)  # outside the event loop: inside it, Prefect returns coroutines
    asyncio.run(serve(root, params, made))


if __name__ == "__main__":
    main()
