"""Functions in processes of their own, with this one's environment; also such that die by SIGKILL at a failpoint."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from benchmarks.kills import SERVER  # its children start in a tenth of the time that a new Python imports DVC in


def start(function: Callable, *arguments) -> BaseProcess:
    """A process that runs `function(*arguments)`; both can be pickled."""
    process = SERVER.Process(target=_run, args=(dict(os.environ), function, arguments))
    process.start()
    return process


def killed_at(point: str, function: Callable, *arguments, **named) -> bool:
    """Was `function(*arguments, **named)` killed at failpoint `point`, rather than coming to an end?

    Raises AssertionError when it came to its end or raised.
    """
    here, there = SERVER.Pipe(duplex=False)
    process = start(_armed, there, point, function, arguments, named)
    there.close()
    try:
        ending = here.recv()
    except EOFError:
        ending = None  # nothing was said: a kill leaves no time for it
    process.join()
    assert ending is None, f"at {point} it was not killed: {ending}"
    return process.exitcode in (-signal.SIGKILL, 255)  # 255: the fork server was too late to see how it ended


def _run(environment: dict, function: Callable, arguments: tuple) -> None:
    os.environ.clear()
    os.environ.update(environment)
    function(*arguments)


def _armed(ending: Connection, point: str, function: Callable, arguments: tuple, named: dict) -> None:
    os.environ["EVERGREEN_FAILPOINT"] = point
    try:
        function(*arguments, **named)
        ending.send("it came to its end")
    except BaseException as error:
        ending.send(repr(error))
