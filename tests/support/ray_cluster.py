"""A real Ray cluster of two nodes on this machine, for all tests of a process.

tests/conftest.py holds the fixture: imported into each file, it would start a cluster for each.

    def test_x(ray_cluster):
        engine.connect(ray_cluster)
        list(ray_map(function, items, in_flight=4))

Functions and items must be importable by the workers: put them at the top level of the test module.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.scale import engine
from flows.scale.scratch import SOCKETS, scratch_folder
from flows.scale.start import QUIET
from tasks.common.params import ScaleParams
from tests.support.checkout import ROOT
from tests.support.s3_servers import environment

SMALL = {"num_cpus": 1, "object_store_memory": 100 << 20}
_address: list[str] = []  # of the cluster that runs


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[ScaleParams]:
    """The section `scale` of a project that uses the cluster. This process stays connected between tests."""
    if _address:  # each module that imports the fixture has one of its own, and pytest ends the first one last
        yield ScaleParams(engine="ray", address=_address[0])
        return
    os.environ.update(QUIET)
    path = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), path]))  # tests/ is not in what workers get
    from ray.cluster_utils import Cluster

    with scratch_folder("eg-ray-", SOCKETS) as folder, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(folder).items():
            patch.setenv(name, value)  # workers have credentials of their own for the S3 servers of the tests
        patch.setenv("RAY_TMPDIR", str(folder))
        (folder / "ray").mkdir()  # where Ray notes the address
        head = {
            **SMALL,
            "include_dashboard": False,
            "no_monitor": True,
            "include_log_monitor": False,
            "node_ip_address": "127.0.0.1",
        }
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(**SMALL, node_ip_address="127.0.0.1")
            _address.append(cluster.address)
            yield ScaleParams(engine="ray", address=cluster.address)
        finally:
            _address.clear()
            engine.disconnect()
            cluster.shutdown()
            os.environ["PYTHONPATH"] = path


def killed_once(marker: Path) -> bool:
    """True the first time that a worker asks for `marker`, for functions that kill their worker once."""
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
