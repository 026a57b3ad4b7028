"""Export a version: which bundle is meant, where the folder goes."""

from pathlib import Path

from flows.publishing.history import open_project
from flows.repo.copies import record_copies
from tasks.common.errors import EvergreenError
from tasks.common.paths import state_dir
from tasks.export.run import Exported, export, find
from tasks.releases.bundle import MANIFEST, digest
from tasks.releases.store import Releases, cached_bundle

LIVE = "live"


def export_version(
    root: Path, format_name: str, version: str = LIVE, out: Path | None = None, uri: str | None = None
) -> Exported:
    """Write `version` of the project at `root` in a format; see tasks.export.run.export.

    version: LIVE, a version, or a folder with a bundle. out: None is a folder of the project's state.
    """
    find(format_name)
    folder, name = chosen_bundle(root, version)
    place = out or state_dir(root) / "exports" / f"{name}-{format_name}"
    made = export(folder, name, format_name, place, uri)
    record_copies(root, "model", [made.folder])
    return made


def chosen_bundle(root: Path, version: str) -> tuple[Path, str]:
    """(folder of the bundle, how it is called). Raises EvergreenError for what is not a version."""
    if (Path(version) / MANIFEST).is_file():
        return Path(version), f"bundle-{digest(Path(version))[:12]}"
    releases = open_project(root)[1]
    found, name = _released(releases, version)
    return cached_bundle(releases, found, root), name


def _released(releases: Releases, version: str) -> tuple[str, str]:
    """(digest, version) of a released version."""
    if version == LIVE:
        if (live := releases.live()) is None:
            raise EvergreenError("nothing is live: `evergreen retrain` or `evergreen adopt` makes the first version")
        return live.bundle, live.version
    history = releases.history()
    if found := next((one for one in reversed(history) if one.version == version), None):
        return found.bundle, found.version
    known = ", ".join(sorted({one.version for one in history})) or "none"
    raise EvergreenError(
        f"{version} is not a version: expected {LIVE}, one of {known}, or a folder with a bundle's {MANIFEST}"
    )
