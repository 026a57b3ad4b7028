"""The four Prefect flows of a project, started by schedule, event or button.

Each is a thin shell around a plain function. `flows.services.runner` deploys them from one process, `prefect.yaml`
deploys the same flows to a work pool. They run in the project's folder. Correctness does not depend on Prefect: the
functions bring their own locks, windows and single flight.
"""

import fcntl
from contextlib import contextmanager
from pathlib import Path

from prefect import flow, get_run_logger
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from tasks.common.errors import EvergreenError
from tasks.common.machine_limits import machine_error
from tasks.common.paths import project_root, state_dir
from tasks.common.private import make_folder, open_private

OPTIONS = {"persist_result": False, "validate_parameters": True}


def _root() -> Path:
    return project_root()


@flow(name="retrain-when-needed", **OPTIONS)
def retrain_when_needed(reason: str = "asked for in Prefect", automatic: bool = False):
    """Retrain if anything is new; a request that comes during a run is handled after it."""
    from flows.runs.single_flight import trigger

    say = get_run_logger().info
    return _report_outcome("retraining", lambda: trigger(_root(), reason, say=say, automatic=automatic), "/runs")


@flow(name="monitor", **OPTIONS)
def monitor():
    """Measure the newest window of production, decide, report, act."""
    return _report_outcome("monitor", lambda: _monitor(_root(), get_run_logger().info))


def _monitor(root: Path, say) -> str:
    """Do one monitor run, and ask again for retrainings that a pause had kept from starting."""
    from flows.production.monitor import monitor_and_record
    from flows.runs.single_flight import left_over
    from flows.server.events import request_retrain

    found = monitor_and_record(root, say)
    if waiting := left_over(root):
        request_retrain(root, "drift", "the pause has ended")
        say(f"asked again for a retraining: {'; '.join(waiting)}")
    return found


@flow(name="reevaluate", **OPTIONS)
def reevaluate():
    """Measure accuracy on late labels; roll back a champion that is certainly worse than its predecessor."""
    from flows.production.reevaluate import reevaluate as run

    return _report_outcome("re-evaluation", lambda: run(_root(), say=get_run_logger().info))


@flow(name="housekeeping", **OPTIONS)
def housekeeping():
    """Apply retention, delete leftovers, complete what was interrupted, send undelivered alerts."""
    from flows.services.housekeeping import housekeeping as run

    return _report_outcome("housekeeping", lambda: run(_root(), say=get_run_logger().info))


@contextmanager
def _alive_lock():
    """Hold a file lock named after this flow run: a killed process cannot tell Prefect that it died."""
    folder = state_dir(_root()) / "flow-runs"
    make_folder(folder)
    path = folder / str(flow_run.get_id() or "by-hand")
    with open(path, "w", opener=open_private) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)


def is_alive(root: Path, run_id: str) -> bool:
    """Whether the process of flow run `run_id` is alive; deletes the lock file that a killed one left."""
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


def _report_outcome(what: str, function, page: str = "/services"):
    """Run `function` and make its sentence the flow run's state; an error becomes a failed state and an alert.

    page: of the console, to which the alert leads.
    """
    from monitoring.alerts import alert_once

    try:
        with _alive_lock():
            sentence = function()
    except EvergreenError as error:
        get_run_logger().error("%s", error)
        alert_once(_root(), f"failed {what}", "failed", f"{what} failed: {error}", page=page)
        return Failed(message=str(error)[:2000])
    except Exception as error:
        said = machine_error(error) or f"{type(error).__name__}; see its run in Prefect"
        alert_once(_root(), f"failed {what}", "failed", f"{what} failed: {said}", page=page)
        raise
    alert_once(_root(), f"failed {what}", "failed", None)
    get_run_logger().info("%s", sentence)
    return state_of(sentence)


def state_of(sentence: str):
    """The Prefect state of a flow run that ended well; its name says at a glance if nothing was done."""
    names = {"nothing new": "Nothing new", "not started": "Paused"}
    name = next((name for begin, name in names.items() if sentence.startswith(begin)), None)
    return Completed(name=name, message=sentence[:2000])
