"""How a training on Ray ends before its time: what is said of it, and what is not tried again."""

import re
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flows.scale.engine import ClusterLost, check_alive
from flows.scale.map import RECONNECT_SECONDS
from tasks.common.errors import EvergreenError

LETTERS = 160  # of each of Ray's reasons, which are pages
MOST = 3  # reasons; further workers say the same of other addresses
ASK = 2.0  # seconds between two questions to the cluster's head
GOES_ON = "The finished epochs are kept: the next run goes on from there"
WRAPPED = ("health_check_failure", "cause")  # attributes of Ray's errors that hold what happened


def reasons(error: BaseException) -> str:
    """The first line of what ended each worker; lines that differ in numbers alone are one.

    The text of Ray Train's own `error` begins with a heading.
    """
    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    different: dict[str, str] = {}
    for line in map(_first_line, failures.values()):
        different.setdefault(re.sub(r"\d+", "", line), line)
    return "; ".join(list(different.values())[:MOST])


def lasting(error: Exception) -> str | None:
    """What to say of an `error` in a worker that another try would only repeat; None: another worker was lost."""
    import torch

    if isinstance(error, EvergreenError):
        return str(error)
    if isinstance(error, torch.OutOfMemoryError):  # a RuntimeError too
        return (
            f"a training worker on {socket.gethostname()} ran out of the GPU's memory ({_first_line(error)}): lower "
            "train_backbone.batch_size or images.resolution"
        )
    if isinstance(error, RuntimeError | ConnectionError):  # what gloo and NCCL raise when another worker is lost
        return None
    return "".join(traceback.format_exception(error))


@dataclass
class Head:
    """Whether the cluster's head answers. Ray itself waits for an hour, and its workers with it."""

    say: Callable[[str], object]
    ask: Callable[[], None] = check_alive  # raises ClusterLost
    answered: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)
    silent: bool = False

    def look(self, now: float) -> None:
        """Ask where that is due at the time `now`. Raises ClusterLost after RECONNECT_SECONDS without an answer."""
        if now - self.asked < ASK:
            return
        self.asked = now
        try:
            self.ask()
        except ClusterLost as lost:
            if now - self.answered > RECONNECT_SECONDS:
                raise ClusterLost(f"{lost} {GOES_ON}") from lost
            if not self.silent:
                self.say(f"ray: {lost} Waiting {RECONNECT_SECONDS:g} s for an answer")
            self.silent = True
        else:
            self.answered, self.silent = now, False


def heard(method: Any) -> Any:
    """What `method` of the news of a training returns. Raises ClusterLost where actor or cluster is gone."""
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError, RaySystemError

    try:
        return ray.get(method.remote(), timeout=RECONNECT_SECONDS)
    except (ConnectionError, GetTimeoutError, RayActorError, RaySystemError) as error:
        raise ClusterLost(
            f"the process that hears of the training was lost: {_first_line(error)}. {GOES_ON}"
        ) from error


def _first_line(error: BaseException) -> str:
    for name in WRAPPED:
        error = getattr(error, name, None) or error
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LETTERS]
