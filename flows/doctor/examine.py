"""Run every check: one that fails with an error is a problem, and the others still run."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flows.doctor import cluster, environment, machine, places, project, servers, state
from flows.doctor.finding import Finding, problem
from tasks.common.errors import EvergreenError
from tasks.common.machine_limits import machine_error

Check = Callable[[], Finding | list[Finding]]
REPORT = "please report it, with the output of `evergreen doctor --json`"


def examine(root: Path) -> Iterator[Finding]:
    """Yield what each check found in the project at `root`, as soon as it is known."""
    first, params = project.settings(root)
    yield from (environment.python(), *_run("packages", partial(environment.packages, root)))
    yield from (*environment.extras(), environment.git_program(), first)
    yield from _run("state", partial(state.damaged_files, root))  # before others set damaged files aside
    for name, check in checks(root, params).items():
        yield from _run(name, check)


def checks(root: Path, params) -> dict[str, Check]:
    """Name -> check; those that need params.yaml only where it can be read."""
    with_params: dict[str, Callable] = {
        "store": places.store,
        "disk": machine.disks,
        "clock": machine.clock,
        "ports": servers.ports,
        "alerts": servers.alerts,
        "predictor": servers.predictor,
        "work pool": servers.work_pool,
        "floors": project.floors,
        "scale": cluster.scale,
    }
    alone: dict[str, Callable] = {
        "repository": project.repository,
        "formats": project.formats,
        "prefect": servers.prefect,
        "prefect database": servers.prefect_database,
        "services": servers.services,
        "permissions": state.permissions,
        "labels": state.label_journal,
        "unfinished": state.unfinished,
    }
    found = {name: partial(check, root) for name, check in alone.items()}
    found |= {"memory": machine.memory, "open files": machine.open_files}
    if params is not None:
        found |= {"dvc": partial(project.dvc, root), "remote": partial(places.remote, root)}
        found |= {"monitor": partial(state.monitor, root)}
        found |= {name: partial(check, root, params) for name, check in with_params.items()}
    return found


def _run(name: str, check: Check) -> list[Finding]:
    try:
        found = check()
    except EvergreenError as error:
        return [problem(name, str(error), "as the message says")]
    except Exception as error:
        said = machine_error(error)
        return [problem(name, said or f"the check failed: {type(error).__name__}: {error}", "" if said else REPORT)]
    return found if isinstance(found, list) else [found]
