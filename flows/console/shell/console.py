"""What the console's pages share: the project, its settings and stores."""

import threading
from dataclasses import dataclass, field
from pathlib import Path

from fastapi import Request

from monitoring.log.production_log import Log, open_log
from tasks.common.access import Access
from tasks.common.params import Params, load_params
from tasks.releases.store import Releases, open_store


@dataclass
class Console:
    """One project's console, shared by all requests and threads."""

    root: Path
    access: Access
    key: bytes = field(repr=False)  # of the tokens in forms; of this checkout
    evidently_port: int | None = None  # of a running Evidently UI on this machine
    stopping: threading.Event = field(default_factory=threading.Event, repr=False)  # the server ends: so do streams
    _params: tuple[tuple[int, int], Params] | None = field(default=None, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def params(self) -> Params:
        """The settings, read again when params.yaml changes. Raises EvergreenError if they are wrong."""
        file = self.root / "params.yaml"
        try:
            status = file.stat()
        except OSError:  # gone, or being replaced
            return load_params(file)  # says so
        stamp = (status.st_mtime_ns, status.st_size)
        with self._lock:
            if self._params is None or self._params[0] != stamp:
                self._params = (stamp, load_params(file))
            return self._params[1]

    def releases(self) -> Releases:
        """The release store."""
        return open_store(self.params().store, self.root)

    def log(self) -> Log:
        """The production log."""
        return open_log(self.root, self.params())


def console_of(request: Request) -> Console:
    """The console that answers `request`."""
    return request.app.state.console
