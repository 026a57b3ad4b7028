"""Checks of the project's servers: Prefect's, its database, the ports, what `evergreen up` starts."""

import os
from pathlib import Path

from flows.doctor.finding import Finding, ok, problem, warning
from flows.predictor import status
from flows.server import database, process, processes
from flows.server.environment import DATABASE, environment
from flows.server.process import last_line
from flows.services import pools, up
from flows.services.logs import log_of
from monitoring.alerts import addresses, unsent
from tasks.common.checkout import known_checkout
from tasks.common.params import Params
from tasks.common.paths import state_dir

RESTART = "`evergreen down`, then `evergreen up`"


def _other_server() -> list[str]:
    """The names of the settings that send commands to another Prefect server."""
    return [name for name in ("PREFECT_API_URL", DATABASE) if os.environ.get(name)]


def prefect(root: Path) -> Finding:
    """Whether one Prefect server runs here, and answers; none is fine, too: a run starts it."""
    if names := _other_server():
        return ok("prefect", f"{' and '.join(names)} in the environment name another server")
    running, pids = process.running(root), processes.servers(root)
    if len(pids) > 1:
        return problem("prefect", f"{len(pids)} servers use one database: pids {', '.join(map(str, pids))}", RESTART)
    if running and pids == [running["pid"]]:
        return ok("prefect", f"answers at {running['url']}")
    if pids:
        return problem("prefect", f"the server with pid {pids[0]} does not answer, or starts just now", RESTART)
    return ok("prefect", "not running: `evergreen up` or the next run starts it")


def prefect_database(root: Path) -> Finding:
    """Whether the server's SQLite database is whole."""
    file = Path(environment(root)["PREFECT_HOME"]) / database.NAME
    if why := database.damage(file):
        cure = f"{RESTART}: it is set aside, and only the history on Prefect's pages is lost"
        return problem("prefect database", f"{file} is damaged: {why}", cure)
    return ok("prefect database", f"{file.stat().st_size / 1e6:,.1f} MB" if file.is_file() else "none yet")


def ports(root: Path, params: Params) -> list[Finding]:
    """Whether the ports of params.yaml are free for the services that do not run."""
    serve, taken = params.serve, []
    running = {name for name, _, well in up.services(root) if well}
    wanted = {"prefect": serve.prefect_port, "pages": serve.port, "evidently": serve.evidently_port}
    for name, port in wanted.items():
        if name not in running and process.free_port(port, "127.0.0.1" if name == "evidently" else serve.host) != port:
            taken.append(f"{port} ({name})")
    if taken:
        cure = "set other ports in serve of params.yaml; until then a free one is taken, which changes at each start"
        return [warning("ports", f"another program has port {', '.join(taken)}", cure)]
    return [ok("ports", ", ".join(f"{name} {port}" for name, port in wanted.items()))]


def services(root: Path) -> list[Finding]:
    """Whether everything that `evergreen up` started answers, and somebody watches it."""
    if not (state_dir(root) / "services.json").is_file():
        return [ok("services", "not started: `evergreen up` starts schedules and pages")]
    if not up.supervised(root):
        return [problem("services", "the process that restarts them died", "`evergreen up`")]
    silent = [name for name, _, well in up.services(root) if not well]
    if silent:
        said = "; ".join(
            f"{name} (.evergreen/{log_of(root, name).name}: {last_line(log_of(root, name))})" for name in silent
        )
        cure = f"repair what its log says, then it starts by itself; if the log names no error: {RESTART}"
        return [problem("services", f"no answer from {said}", cure)]
    return [ok("services", "all answer")]


def predictor(root: Path, params: Params) -> Finding:
    """Whether the HTTP predictor answers as it should, if it runs or is wanted."""
    found = status.running(root)
    if found is None and not params.predictor.with_up:
        return ok("predictor", "not running: `evergreen serve` starts it")
    if found is None:
        return problem("predictor", "not running, and predictor.with_up wants it", "`evergreen up`; see predictor.log")
    if not found.well:
        return problem("predictor", found.sentence(), "wait for its start, or look at what it printed")
    if wrong := [*found.problems, *status.lines(root)[1 + len(found.problems) :]]:
        return warning("predictor", "; ".join(wrong), "as it says; it answers meanwhile")
    return ok("predictor", found.sentence())


def work_pool(root: Path, params: Params) -> Finding:
    """Whether a worker runs the flows that `serve.pool` gives to a work pool, at the times of params.yaml."""
    if params.serve.pool is None:
        return ok("work pool", "none (serve.pool): `evergreen up` runs the flows itself")
    api, own = process.api_of(root), known_checkout(root)
    if api is None or own is None:
        return ok("work pool", f"{params.serve.pool}; Prefect does not run")
    if trouble := pools.pool_trouble(params, api):
        return problem("work pool", *trouble)
    found = pools.deployed_schedules(api, pools.pooled_name(own.id))
    if not found:
        return problem("work pool", f"no flow of this project is in {params.serve.pool}", f"{RESTART}; see runner.log")
    if other := pools.outdated(params, found):
        return warning("work pool", f"not at the times of params.yaml: {', '.join(other)}", RESTART)
    return ok("work pool", f"{params.serve.pool} has a worker and {len(found)} flows")


def alerts(root: Path, params: Params) -> list[Finding]:
    """Whether apprise understands the addresses of alerts, and reached them."""
    found, wait, name = addresses(root), unsent(root), params.alerts.urls_env
    if not found:
        return [ok("alerts", f"{name} names no address: alerts go nowhere")]
    if bad := [str(one.number) for one in found if not one.understood]:
        cure = "see https://github.com/caronc/apprise for how addresses are written"
        return [
            problem("alerts", f"{name}: apprise does not understand address {', '.join(bad)} of {len(found)}", cure)
        ]
    if wait:
        cure = "they are sent again for a day; `evergreen alerts` tries the addresses"
        return [warning("alerts", f"{len(wait)} alerts have not reached every address", cure)]
    return [ok("alerts", f"{len(found)} addresses that apprise understands")]
