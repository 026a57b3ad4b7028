"""Points at which a test kills the process, as power loss or the out-of-memory killer would.

`EVERGREEN_FAILPOINT=ingest.after_shard evergreen ingest ...` ends with SIGKILL when that point is reached: no
handler runs, no file is flushed. Names are "<module>.<where>". Without the variable a point costs one look-up.
"""

import os
import signal


def failpoint(name: str) -> None:
    """Kill this process if the environment asks for it at `name`; nothing otherwise."""
    if os.environ.get("EVERGREEN_FAILPOINT") == name:
        os.kill(os.getpid(), signal.SIGKILL)
