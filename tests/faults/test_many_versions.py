"""Any version comes back byte for byte, whatever happened to the one that is live."""

import time

from flows.publishing.rollback import rollback
from tests.faults.tier import sample
from tests.support import versions_project

VERSIONS = sample(3, 50)


def test_any_version_is_restored_identical_also_when_the_live_one_is_damaged(tmp_path):
    root = versions_project.copy(tmp_path / "project", VERSIONS)
    releases = versions_project.store(root)
    history = releases.history()
    assert len(history) == VERSIONS
    wanted = {pointer.version: versions_project.restored(root, pointer, tmp_path / "tree") for pointer in history}
    manifest = releases.store.root / f"bundles/{history[-1].bundle}.json"
    manifest.write_bytes(manifest.read_bytes()[:-2])
    for pointer in sample(history[:1], history[:-1]):
        began = time.monotonic()
        rollback(root, pointer.version, by="ann", why="a test")
        assert time.monotonic() - began < 60
        assert releases.live().bundle == pointer.bundle
        assert versions_project.restored(root, pointer, tmp_path / "tree") == wanted[pointer.version]
