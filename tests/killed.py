"""A function that dies by SIGKILL at a failpoint, in a process of its own."""

import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection

from benchmarks.kills import SERVER  # its children start in a tenth of the time that a new Python imports DVC in


def killed_at(point: str, function: Callable, *arguments, **named) -> bool:
    """Was `function(*arguments, **named)` killed at failpoint `point`, rather than coming to an end?

    Raises AssertionError when it came to its end or raised.
    """
    here, there = SERVER.Pipe(duplex=False)
    process = SERVER.Process(target=_run, args=(there, dict(os.environ), point, function, arguments, named))
    process.start()
    there.close()
    try:
        ending = here.recv()
    except EOFError:
        ending = None  # nothing was said: a kill leaves no time for it
    process.join()
    assert ending is None, f"at {point} it was not killed: {ending}"
    return process.exitcode in (-signal.SIGKILL, 255)  # 255: the fork server was too late to see how it ended


def _run(ending: Connection, environment: dict, point: str, function: Callable, arguments: tuple, named: dict) -> None:
    os.environ.clear()
    os.environ.update(environment | {"EVERGREEN_FAILPOINT": point})
    try:
        function(*arguments, **named)
        ending.send("it came to its end")
    except BaseException as error:
        ending.send(repr(error))
