"""What Prefect runs for a project, by schedule, event or button: four flows, each a thin shell over a plain function.

`flows.services.runner` deploys them from one process; `prefect.yaml` deploys the same ones to a work pool. They run in
the project's folder, and none depends on Prefect for being right: single flight, windows and locks are the functions'
own."""

import fcntl
from contextlib import contextmanager
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.common.errors import EvergreenError
from tasks.common.paths import project_root, state_dir

OPTIONS = {"persist_result": False, "validate_parameters": True}


def _root() -> Path:
    return project_root()


@flow(name="retrain-when-needed", **OPTIONS)
def retrain_when_needed(reason: str = "asked for in Prefect"):
    """Retrain if anything is new; a second request while one runs is kept and looked at afterwards."""
    from flows.runs.single_flight import trigger

    return _told("retraining", lambda: trigger(_root(), reason, say=get_run_logger().info))


@flow(name="monitor", **OPTIONS)
def monitor():
    """Measure the newest window of production, decide, report, act."""
    from flows.production.monitor import monitor_and_record

    return _told("monitor", lambda: monitor_and_record(_root(), say=get_run_logger().info))


@flow(name="reevaluate", **OPTIONS)
def reevaluate():
    """Accuracy on true labels that came late; a champion surely worse than its predecessor is rolled back."""
    from flows.production.reevaluate import reevaluate as run

    return _told("re-evaluation", lambda: run(_root(), say=get_run_logger().info))


@flow(name="housekeeping", **OPTIONS)
def housekeeping():
    """Retention, sweeps, reconciliation, undelivered alerts."""
    from flows.services.housekeeping import housekeeping as run

    return _told("housekeeping", lambda: run(_root(), say=get_run_logger().info))


@contextmanager
def _living():
    """A flock of this flow run's own while it lives: a killed process cannot tell Prefect that it died."""
    folder = state_dir(_root()) / "flow-runs"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / str(flow_run.get_id() or "by-hand")
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def lives(root: Path, run_id: str) -> bool:
    """Does the process of flow run `run_id` live? What a killed one left is removed."""
    path = state_dir(root) / "flow-runs" / run_id
    try:
        with open(path) as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def _told(what: str, function):
    """The sentence `function` returns as the run's state; an error people can mend as its message and an alert."""
    from monitoring.alerts import alert_once

    try:
        with _living():
            sentence = function()
    except EvergreenError as error:
        get_run_logger().error("%s", error)
        alert_once(_root(), f"failed {what}", "failed", f"{what} failed: {error}")
        return Failed(message=str(error)[:2000])
    except Exception as error:
        alert_once(
            _root(), f"failed {what}", "failed", f"{what} failed: {type(error).__name__}; see its run in Prefect"
        )
        raise
    alert_once(_root(), f"failed {what}", "failed", None)
    get_run_logger().info("%s", sentence)
    return Completed(message=sentence[:2000])
