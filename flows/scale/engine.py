"""The connection to a Ray cluster: one per process, opened when work needs it.

Without an address, a cluster of this machine starts here. It listens on loopback only, wants a random token from every
caller, and ends with this process, however it ends: Linux kills Ray's processes when the thread that started them has
ended, so a thread that lives as long as the connection starts them.
"""

import atexit
import os
import shutil
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from flows.scale.scratch import SOCKETS, new_scratch
from flows.scale.start import QUIET, open_cluster, running_here
from tasks.common.errors import EvergreenError
from tasks.common.params import ScaleParams
from tasks.common.plural import counted

START_SECONDS = 120.0  # until a local cluster is up, or another one answers, on a loaded machine
REACH_SECONDS = 5.0  # for a cluster to accept a connection
INSTALL = "pip install 'evergreen[ray]'"
START = "Start the cluster, correct scale.address, or set scale.engine: local."


class ClusterLost(EvergreenError):
    """The cluster does not answer any more."""


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to."""

    address: str  # as params.yaml says it, or "this machine"
    nodes: int
    cpus: float
    gpus: float
    ray: str  # version
    python: str

    def sentence(self) -> str:
        """What it is, for a person."""
        gpus = f", {self.gpus:g} GPUs" if self.gpus else ""
        where = f"Ray {self.ray} (Python {self.python}) at {self.address}"
        return f"{where}: {counted(self.nodes, 'node')}, {self.cpus:g} CPUs{gpus}"


class _Keeper(threading.Thread):
    """Opens the connection, keeps it until told to end it, and closes it."""

    def __init__(self, scale: ScaleParams, where: str | None):
        super().__init__(name="ray", daemon=True)
        self.scale, self.where, self.error = scale, where, None
        self.opened, self.ends = threading.Event(), threading.Event()
        self.folder: Path | None = None
        self.identity = ""

    def run(self) -> None:
        import ray

        try:
            if self.where is None:
                self.folder = new_scratch("eg-ray-", SOCKETS)
            open_cluster(self.where, self.folder)
            if not (self.where or "").startswith("ray://"):
                self.identity = _identity(ray.get_runtime_context().gcs_address)
        except BaseException as error:
            self.error = error
            self.ends.set()
        self.opened.set()
        self.ends.wait()
        with suppress(Exception):  # of a cluster that is gone, too
            ray.shutdown()
        if self.folder:
            shutil.rmtree(self.folder, ignore_errors=True)


_keeper: _Keeper | None = None


def check_usable(scale: ScaleParams) -> None:
    """Raise EvergreenError where a run with this engine would fail: Ray is missing, or no cluster answers."""
    if scale.engine == "ray":
        installed()
        _check_reachable(_found(scale.address))


def connect(scale: ScaleParams) -> Cluster:
    """Connect this process to the cluster that `scale` names; the second call finds the connection.

    Raises EvergreenError: Ray is not installed, the cluster cannot be reached, or has another version.
    """
    global _keeper
    if is_connected() and _keeper.scale.address == scale.address:
        return cluster()
    disconnect()
    for name, value in QUIET.items():  # before Ray is imported, which reads some of them once
        os.environ.setdefault(name, value)
    installed()
    where = _found(scale.address)
    _check_reachable(where)
    keeper = _Keeper(scale, where)
    keeper.start()
    _keeper = keeper
    try:
        if not keeper.opened.wait(START_SECONDS):
            raise ClusterLost(_unreachable(scale.address, f"it did not answer within {START_SECONDS:g} s"))
        if keeper.error is not None:
            raise _said(keeper.error, scale.address) from keeper.error
        return cluster()
    except BaseException:
        disconnect()
        raise


def disconnect() -> None:
    """End the connection, and a cluster that started with it."""
    global _keeper
    keeper, _keeper = _keeper, None
    if keeper is not None:
        keeper.ends.set()
        keeper.join(START_SECONDS)


atexit.register(disconnect)


def reconnect(seconds: float) -> None:
    """Connect again after the cluster was lost; tries for `seconds`. Raises ClusterLost."""
    if _keeper is None:
        raise ClusterLost("this process is not connected to a Ray cluster")
    scale, deadline = _keeper.scale, time.monotonic() + seconds
    disconnect()
    while True:
        try:
            connect(scale)
            return
        except ClusterLost as error:
            if time.monotonic() > deadline:
                raise ClusterLost(
                    f"{error} What was finished is kept: start the command again when the cluster answers, and it "
                    "goes on from there."
                ) from error
            time.sleep(1)


def cluster() -> Cluster:
    """The cluster that this process is connected to. Raises ClusterLost without one."""
    import ray

    if not is_connected():
        raise ClusterLost("this process is not connected to a Ray cluster")
    total = ray.cluster_resources()
    return Cluster(
        address=_keeper.scale.address or "this machine",
        nodes=sum(node["Alive"] for node in ray.nodes()),
        cpus=total.get("CPU", 0),
        gpus=total.get("GPU", 0),
        ray=ray.__version__,
        python=".".join(map(str, sys.version_info[:3])),
    )


def is_connected() -> bool:
    """Whether this process has a connection. The cluster may be gone all the same."""
    return _keeper is not None and not _keeper.ends.is_set() and _initialised()


def check_alive() -> None:
    """Raise ClusterLost if the cluster's head does not answer, or is another one than at the start."""
    import ray

    address = _keeper.scale.address if _keeper else None
    if not is_connected():
        raise ClusterLost(_unreachable(address, "the connection has ended"))
    if (_keeper.where or "").startswith("ray://"):
        return  # Ray's client watches its connection itself
    head = ray.get_runtime_context().gcs_address
    _check_reachable(head)
    if _identity(head) != _keeper.identity:
        raise ClusterLost(_unreachable(address, "its head was restarted"))


def _identity(head: str) -> str:
    """The id that a head gives its cluster when it starts."""
    from ray._raylet import GcsClient

    try:
        return GcsClient(address=head).cluster_id.hex()
    except Exception as error:
        raise ClusterLost(_unreachable(head, str(error).splitlines()[0])) from error


def installed() -> str:
    """The version of Ray. Raises EvergreenError without the extra `ray`."""
    try:
        import ray
    except ImportError as error:
        raise EvergreenError(
            f"scale.engine is ray, but the package ray cannot be imported ({error}): `{INSTALL}` installs it, or set "
            "scale.engine: local"
        ) from error
    return ray.__version__


def _initialised() -> bool:
    import ray

    return ray.is_initialized()


def _found(address: str | None) -> str | None:
    """`address`, or what Ray finds for `auto`. Raises ClusterLost where it finds none."""
    if address != "auto":
        return address
    try:
        return running_here()
    except ConnectionError as error:
        raise ClusterLost(_unreachable(address, str(error))) from error


def _check_reachable(address: str | None) -> None:
    """Raise ClusterLost where no program listens at `address`. Ray itself would try for minutes."""
    if address is None:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), REACH_SECONDS).close()
    except OSError as error:
        raise ClusterLost(_unreachable(address, str(error))) from error


def _said(error: BaseException, address: str | None) -> BaseException:
    """What Ray's `error` means to the user; itself where it means nothing to them."""
    text = str(error).strip()
    if "ersion mismatch" in text:
        return EvergreenError(
            f"the Ray cluster at {address} has other versions than this process: {text}. Driver and workers need the "
            "same Python and the same Ray: install what requirements.lock says in the image of the cluster"
        )
    # a bare Exception: a node that starts too late
    if isinstance(error, ConnectionError | RuntimeError | OSError) or type(error) is Exception:
        first, *_, last = text.splitlines() * 2 or [type(error).__name__] * 2
        why = f"{first} {last.strip()}" if first.endswith(":") else first  # a heading, then the server's traceback
        return ClusterLost(_unreachable(address, why.rstrip(".")))
    return error


def _unreachable(address: str | None, why: str) -> str:
    if address is None:
        return f"no Ray cluster could be started on this machine: {why}."
    return f"the Ray cluster at {address} (scale.address) cannot be reached: {why.rstrip('.')}. {START}"
