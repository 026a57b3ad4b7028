"""Functions for child processes in tests that die, loop, use memory or fail.

Every child imports this module, so it imports nothing heavy.
"""

import os
import signal
from pathlib import Path


def die_if_told(item: bytes) -> int:
    if item == b"die":
        os.kill(os.getpid(), signal.SIGKILL)
    return len(item)


def spin_if_told(item: bytes) -> bytes:
    while item == b"spin":
        pass
    return item


def take_memory(item: bytes) -> int:
    return len(bytearray(int(item)))


def fail(item: bytes) -> int:
    raise ValueError(f"a bug, at {item!r}")


def measure_and_peak(item: bytes) -> tuple[str, int]:
    """Mode, or the reason why the image is undecodable, and the peak resident bytes of this child."""
    from tasks.dataset.decode import Undecodable
    from tasks.inspection.measure import measure

    try:
        mode = measure(item, 50_000_000).mode
    except Undecodable as error:
        mode = error.reason
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return mode, int(line.split()[1]) * 1024


BLOCKED_AT_IMPORT = signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def blocks_sigint(item: bytes) -> bool:
    return BLOCKED_AT_IMPORT and signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def spin_once_there(file: bytes) -> None:
    """Write the id of this process into `file`, then loop forever."""
    path = Path(file.decode())
    path.with_suffix(".part").write_text(str(os.getpid()))
    path.with_suffix(".part").rename(path)
    while True:
        pass
