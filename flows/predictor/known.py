"""Versions that this machine has loaded: they can answer again while the release store is away.

    .evergreen/predictor/versions.json      {schema, live, versions: {version: bundle}}

The bundles lie in .evergreen/cache/bundles/, by digest. Both can be rebuilt from the release store.
"""

from pathlib import Path
from typing import Any, NamedTuple

from serving.live import Model
from serving.predictor import Predictor
from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import locked, write_json
from tasks.common.paths import cache_dir
from tasks.common.private import make_folder
from tasks.common.rebuildable import expect_dict, read_rebuildable
from tasks.releases.switches import predictor_dir

SCHEMA = 1
LOCK_SECONDS = 20


class Known(NamedTuple):
    """Version -> digest of its bundle, and the version that was live when the store was last read."""

    versions: dict[str, str]
    live: str | None = None


def read_known(root: Path) -> Known:
    """What this machine has loaded so far; nothing if the file is missing or damaged."""
    found = read_rebuildable(_file(root), _accept, "the versions are read from the release store again")
    return found or Known({})


def remember(root: Path, version: str, bundle: str, live: bool) -> None:
    """Note that `version` is in the cache, and whether it is the live one."""
    before = read_known(root)
    if before.versions.get(version) == bundle and (not live or before.live == version):
        return
    with locked(make_folder(predictor_dir(root)) / "versions.lock", LOCK_SECONDS, "the list of loaded versions"):
        before = read_known(root)
        new = {"schema": SCHEMA, "versions": before.versions | {version: bundle}}
        write_json(_file(root), new | {"live": version if live else before.live})


def cached_model(root: Path, version: str, bundle: str, threads: int) -> Model:
    """The model of `version` from this machine's cache, hash-checked. Raises EvergreenError if it is not there."""
    folder = cache_dir("bundles", root) / bundle
    if not folder.is_dir():
        raise EvergreenError(
            f"the bundle of {version} is not on this machine ({folder} is missing): it is fetched as soon as the "
            "release store can be read"
        )
    return Model(Predictor(folder, threads, bundle), version)


def last_live(root: Path, threads: int) -> Model | None:
    """The model that was live when the store was last read; None if this machine does not have it."""
    known = read_known(root)
    if known.live is None or not (cache_dir("bundles", root) / known.versions[known.live]).is_dir():
        return None
    return cached_model(root, known.live, known.versions[known.live], threads)


def _file(root: Path) -> Path:
    return predictor_dir(root) / "versions.json"


def _accept(found: Any) -> Known:
    refuse_newer(found["schema"], SCHEMA, "versions.json")
    known = Known(expect_dict(found["versions"], str), found["live"])
    if known.live is not None and known.live not in known.versions:
        raise ValueError(f"the live version {known.live} is not listed")
    return known
