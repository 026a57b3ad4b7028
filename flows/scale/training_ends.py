"""How a training on Ray ends before its time: what is said of it, and what another try would only repeat."""

import re
import socket
import traceback

from tasks.common.errors import EvergreenError

LETTERS = 160  # of each of Ray's reasons, which are pages
MOST = 3  # reasons; further workers say the same of other addresses
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


def _first_line(error: BaseException) -> str:
    for name in WRAPPED:
        error = getattr(error, name, None) or error
    return (str(error).strip() or type(error).__name__).splitlines()[0][:LETTERS]
