"""The bundle format: read it, check it against its manifest, name it by digest."""

import json
from pathlib import Path

from tasks.common.errors import EvergreenError, refuse_newer
from tasks.common.files import fsync_file, read_json, sha256_bytes, sha256_file, write_json
from tasks.common.params import current_names, current_values

SCHEMA_VERSION = 3  # 1 called preprocess.resolution and params.images.resolution `size`; `read` translates
# 2 had no `scaling` (it had a temperature) and no `weights` (it answered the most probable class)


MANIFEST = "MANIFEST.json"


class BundleDamaged(EvergreenError):
    """A bundle differs from its manifest; the text names every file."""


def write_manifest(folder: Path) -> None:
    """Write MANIFEST.json for the files in `folder`, each made durable first: a bundle with a manifest is complete."""
    files = {}
    for file in sorted(folder.iterdir()):
        fsync_file(file)
        files[file.name] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    write_json(folder / MANIFEST, {"files": files})


def digest(folder: Path) -> str:
    """The bundle's name: sha256 of its MANIFEST.json. Raises BundleDamaged if that is missing."""
    return sha256_bytes(_manifest(folder))


def verify(folder: Path) -> None:
    """Hash every file against MANIFEST.json. Raises BundleDamaged naming all that is missing, altered or extra."""
    try:
        files = {
            name: (entry["sha256"], entry["bytes"]) for name, entry in json.loads(_manifest(folder))["files"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleDamaged(f"{folder / MANIFEST} is not the manifest of a bundle: {error!r}") from None
    problems = []
    for name, (sha256, size) in files.items():
        file = folder / name
        if Path(name).name != name or file.is_symlink():  # a manifest may only list files of this folder
            problems.append(f"{name} is not a plain file of the folder")
        elif not file.is_file():
            problems.append(f"{name} is missing")
        elif file.stat().st_size != size:
            problems.append(f"{name} has {file.stat().st_size} bytes, {size} expected")
        elif (found := sha256_file(file)) != sha256:
            problems.append(f"{name} is altered (sha256 {found}, {sha256} expected)")
    problems += [
        f"{file.name} is not in the manifest"
        for file in sorted(folder.iterdir())
        if file.name not in files and file.name != MANIFEST
    ]
    if problems:
        raise BundleDamaged(
            f"the bundle in {folder} is damaged: {'; '.join(problems)}. Restore it from the release store"
        )


def read(folder: Path) -> dict:
    """bundle.json of a bundle. Raises BundleDamaged if it is missing, NewerFormat if only a newer Evergreen
    can read it."""
    file = folder / "bundle.json"
    if not file.is_file():
        raise BundleDamaged(f"{folder} holds no bundle (no bundle.json): run the bundle stage first")
    try:
        about = read_json(file)
    except ValueError as error:
        raise BundleDamaged(f"{file} is not JSON ({error}): restore the bundle from the release store") from None
    if not isinstance(about, dict) or "schema" not in about:
        raise BundleDamaged(f"{file} states no schema version: it is not a bundle's")
    refuse_newer(about["schema"], SCHEMA_VERSION, str(file))
    if "preprocess" in about:
        about["preprocess"] = current_names(about["preprocess"])
    if "params" in about:
        about["params"] = current_values(about["params"])
    return about


def _manifest(folder: Path) -> bytes:
    if not (folder / MANIFEST).is_file():
        raise BundleDamaged(f"{folder} holds no bundle (no {MANIFEST}): run the bundle stage first")
    return (folder / MANIFEST).read_bytes()
