"""A second and third version for a project of `live_project`: the same network, with another cost of one class."""

import json
import shutil
from pathlib import Path

from tasks.common.params import load_params
from tasks.releases import bundle
from tasks.releases.pointer import Pointer, successor
from tasks.releases.store import Releases, open_store


def put_bundle(root: Path, favoured: str, version: str) -> tuple[str, Releases]:
    """(digest of a bundle that answers `favoured` to every image, the release store that has it now)."""
    made = shutil.copytree(root / "artifacts/bundle", root.parent / f"bundle-{version}", dirs_exist_ok=True)
    about = json.loads((made / "bundle.json").read_text())
    about["weights"] = {favoured: 1e9}
    (made / "bundle.json").write_text(json.dumps(about))
    (made / "MANIFEST.json").unlink()
    bundle.write_manifest(made)
    releases = open_store(load_params(root / "params.yaml").store, root)
    return releases.put_bundle(made), releases


def release(root: Path, favoured: str, version: str) -> Pointer:
    """Publish `version`, which answers `favoured` to every image, so that a test sees which version answered."""
    digest, releases = put_bundle(root, favoured, version)
    now = releases.live()
    new = successor(now, version=version, run_id=version, git_rev=now.git_rev, bundle=digest, by="a", why="better")
    return releases.promote(new)
