"""How Ray is started on this machine, and how this process joins a cluster.

Ray reads its settings from the environment, some of them when it is imported. A cluster of this machine listens on
loopback only, and wants a random token from every caller.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from flows.scale.packing import packed_code
from tasks.common.cores import usable_cores
from tasks.common.loopback import is_loopback

STORE_BYTES = 256 << 20  # of a local cluster's object store: items and results that wait
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_worker_niceness": "0",  # on a busy machine, workers of Ray's own 15 get no time: they do our work, not less
    # Ray ends this very process when the head is away for so long: `ray_map` decides earlier, and with a message
    "RAY_gcs_rpc_server_reconnect_timeout_s": "3600",
}
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # "0": this machine alone, as Ray does by itself on macOS


def open_cluster(address: str | None, folder: Path | None) -> None:
    """Connect to the cluster at `address`; None: start one on this machine, with its sockets and logs in `folder`.

    The thread that calls this has to live as long as the connection. Raises what Ray raises.
    """
    import ray

    common = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is not None:
        _read_environment_again()
        near = is_loopback(address.removeprefix("ray://").rpartition(":")[0])
        with packed_code() as code, _on_loopback() if near else nullcontext():
            ray.init(address=address, runtime_env={"working_dir": str(code)}, **common)
        return
    token = secrets.token_hex(32)  # without it every user of this machine could run code here
    own = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "PYTHONPATH": os.pathsep.join(_code_path()),
        LOOPBACK: "0",
    }
    with _environment(own), _on_loopback():
        _read_environment_again()
        ray.init(
            address="local",
            num_cpus=usable_cores(),
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            _temp_dir=str(folder),
            **common,
        )


def running_here() -> str:
    """The address of the cluster that RAY_ADDRESS names, or that runs on this machine. Raises ConnectionError."""
    from ray._private import services

    services.find_gcs_addresses.cache_clear()  # it remembers heads that have ended since
    return services.get_ray_address_from_environment("auto", None)


def _code_path() -> list[str]:
    import tasks

    return [str(Path(tasks.__file__).resolve().parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]


def _read_environment_again() -> None:
    """Let Ray see RAY_AUTH_* of now: it has read them when it was imported, or for an earlier connection."""
    from ray._raylet import AuthenticationTokenLoader, Config

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Let Ray call this machine 127.0.0.1, where its servers then listen, although it may have been imported before."""
    from ray._private import ray_constants

    before, ray_constants.ENABLE_RAY_CLUSTER = ray_constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables for what the block starts, and take them back."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
