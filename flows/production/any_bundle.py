"""The bundle that a name means: a version, a run, "live" or a folder."""

import re
from pathlib import Path

from tasks.common.errors import EvergreenError
from tasks.common.paths import state_dir
from tasks.releases import bundle, rollout
from tasks.releases.store import Releases, cached_bundle

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # of versions and runs


def bundle_of(root: Path, releases: Releases, name: str) -> Path:
    """The folder of the bundle that `name` means: a version, a run, "live" or a folder. Raises EvergreenError."""
    if (Path(name) / bundle.MANIFEST).is_file():
        return Path(name)
    if name == "live":
        if (live := releases.live()) is None:
            raise EvergreenError("no version is live: name a run, or a folder with a bundle")
        return cached_bundle(releases, live.bundle, root)
    history = releases.history()
    versions = ", ".join(dict.fromkeys(one.version for one in reversed(history))) or "none"
    unknown = EvergreenError(
        f"{name[:80]!r} is not a model: expected live, a version ({versions}), a run (`evergreen runs`) or a folder "
        "with a bundle"
    )
    if not NAME.fullmatch(name):
        raise unknown
    if found := next((one for one in reversed(history) if name in (one.version, one.run_id)), None):
        return cached_bundle(releases, found.bundle, root)
    if tried := next((one for one in rollout.rollouts(releases) if name in (one.version, one.run_id)), None):
        return cached_bundle(releases, tried.bundle, root)
    run = releases.run(name)
    here = state_dir(root) / "runs" / name / "tree/artifacts/bundle"
    if run and (here / bundle.MANIFEST).is_file():
        return here
    if run and run.get("bundle"):
        try:
            return cached_bundle(releases, run["bundle"], root)
        except EvergreenError as error:
            raise EvergreenError(
                f"run {name} was {run['outcome']}, and its model is kept neither here nor in the release store: a "
                f"rejected run's model goes with its workspace ({error})"
            ) from error
    raise unknown
