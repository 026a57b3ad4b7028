"""The flows in a Prefect work pool: the values of prefect.yaml, its deployment, the workers.

`serve.pool` names the pool. Then `evergreen up` deploys prefect.yaml and starts no flow itself: workers do, in
processes, containers or pods. The pool's type and its job template belong to the pool (deploy/ has templates).
"""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from flows.server.api import Api
from flows.services.runner_times import ANCHOR
from tasks.common.checkout import checkout
from tasks.common.errors import EvergreenError
from tasks.common.params import Params, load_params
from tasks.common.paths import project_root

FILE = "prefect.yaml"
UNNAMED = "evergreen"  # the pool of a deployment by hand, where serve.pool is null
FLOWS = ("retrain-when-needed", "monitor", "reevaluate", "housekeeping")
DEPLOY_SECONDS = 300
WORK = 'eval "$(evergreen open --env)"; prefect worker start --pool {pool} --limit 4'
MAKE = f"{WORK} --type process (makes it, for processes of this machine)"


def pooled_name(checkout_id: str) -> str:
    """Name of a checkout's deployments in a work pool; those of the runner have the checkout's id."""
    return f"pool-{checkout_id}"


def pool_values(root: Path) -> dict[str, str]:
    """The environment variables that prefect.yaml reads: whose flows, where, in which pool, and when."""
    params = load_params(root / "params.yaml")
    serve = params.serve
    return {
        "EVERGREEN_CHECKOUT": checkout(root).id,
        "EVERGREEN_PROJECT": str(project_root(root)),
        "EVERGREEN_POOL": serve.pool or UNNAMED,
        "EVERGREEN_RETRAIN_CRON": serve.retrain_cron,
        "EVERGREEN_MONITOR_RRULE": json.dumps({"rrule": monitor_rule(serve.monitor_minutes), "timezone": "UTC"}),
        "EVERGREEN_REEVALUATE_CRON": serve.reevaluate_cron,
        "EVERGREEN_HOUSEKEEPING_CRON": serve.housekeeping_cron,
    }


def monitor_rule(minutes: int, now: datetime | None = None) -> str:
    """Every `minutes` since ANCHOR, as an iCalendar rule that begins with the last such moment before yesterday.

    Prefect counts a rule's moments from its begin: from ANCHOR on, that would take seconds each time.
    """
    every = timedelta(minutes=minutes)
    start = ANCHOR + ((now or datetime.now(UTC)) - timedelta(days=1) - ANCHOR) // every * every
    return f"DTSTART:{start:%Y%m%dT%H%M%S}Z\nRRULE:FREQ=MINUTELY;INTERVAL={minutes}"


def deploy(root: Path, params: Params, api: Api) -> None:
    """Deploy prefect.yaml to the pool `serve.pool`. Raises EvergreenError if pool or file is missing, or Prefect's."""
    pool = params.serve.pool
    if not (root / FILE).is_file():
        raise EvergreenError(f"{root / FILE} is missing: `evergreen upgrade` brings it into older projects")
    if not find_pool(api, pool):
        raise EvergreenError(f"Prefect has no work pool {pool!r} (serve.pool): {MAKE.format(pool=pool)}")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", FILE],
            cwd=root,
            env=os.environ | pool_values(root) | api.environment(),
            capture_output=True,
            text=True,
            timeout=DEPLOY_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise EvergreenError(
            f"`prefect deploy` of {FILE} took over {DEPLOY_SECONDS} s: Prefect at {api.url} is too busy. It is tried "
            "again"
        ) from None
    missing = {*FLOWS} - deployed_schedules(api, pooled_name(checkout(root).id)).keys()
    if done.returncode or missing:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-500:]
        raise EvergreenError(f"`prefect deploy` of {FILE} ended with {done.returncode}: {said or 'it printed nothing'}")


def find_pool(api: Api, pool: str) -> dict[str, Any] | None:
    """What Prefect knows of the work pool `pool`; None if there is none of that name."""
    found = api.post("/work_pools/filter", {"work_pools": {"name": {"any_": [pool]}}})
    return found[0] if found else None


def flow_names(api: Api) -> dict[str, str]:
    """Id -> name of our flows. Prefect lists 200 flows at once, and a server for many has more."""
    found = api.post("/flows/filter", {"flows": {"name": {"any_": list(FLOWS)}}})
    return {one["id"]: one["name"] for one in found}


def deployed_schedules(api: Api, name: str) -> dict[str, list[dict[str, Any]]]:
    """Flow -> its schedules in Prefect, of the deployments called `name`."""
    found = api.post("/deployments/filter", {"deployments": {"name": {"any_": [name]}}})
    named = flow_names(api)
    return {named.get(one["flow_id"], ""): [each["schedule"] for each in one["schedules"]] for one in found}


def outdated(params: Params, found: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The flows whose schedules in Prefect are not those of params.yaml."""
    serve = params.serve
    wanted = {
        "retrain-when-needed": ("cron", serve.retrain_cron),
        "monitor": ("rrule", f"INTERVAL={serve.monitor_minutes}"),
        "reevaluate": ("cron", serve.reevaluate_cron),
        "housekeeping": ("cron", serve.housekeeping_cron),
    }

    def same(flow: str) -> bool:
        key, value = wanted[flow]
        return [str(one.get(key, "")).rpartition(";")[2] for one in found.get(flow, [])] == [value]

    return [flow for flow in FLOWS if not same(flow)]


def pool_trouble(params: Params, api: Api) -> tuple[str, str] | None:
    """(what keeps the pool from running flows, what to do); None if a worker polls it."""
    pool = params.serve.pool
    if not find_pool(api, pool):
        return f"Prefect has no work pool {pool!r}", MAKE.format(pool=pool)
    workers = api.post(f"/work_pools/{pool}/workers/filter", {})
    if not any(worker["status"] == "ONLINE" for worker in workers):
        return f"no worker polls the work pool {pool!r}: its runs wait", WORK.format(pool=pool)
    return None
