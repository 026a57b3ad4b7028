"""Write one export: convert, check, record, and only then put the folder in its place.

export.json    what it is, of which version, how it was checked, and with which tools; written last
model.json     what the answers mean: classes, thresholds, preprocessing, the outputs
...            the format's own files
"""

import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_dir, fsync_file, read_json, sha256_file, write_json
from tasks.common.version import VERSION
from tasks.export.formats import FORMATS, Format, writer
from tasks.export.parity import check
from tasks.export.source import Source, Written
from tasks.releases import bundle

RECORD, ABOUT = "export.json", "model.json"
SCHEMA_VERSION = 1  # of both
ABOUT_KEYS = (
    *("name", "task", "classes", "preprocess", "temperature", "scaling", "thresholds", "weights"),
    *("conformal", "hierarchy", "provisional"),
)
OUTPUTS = {
    "input": "`images`: uint8 (N, S, S, 3), RGB, as `preprocess` makes it; scaling and normalising are in the network",
    "logits": "float32 (N, K), not calibrated",
    "probabilities": "float32 (N, K) in the order of `classes`, calibrated",
    "features": "float32 (N, D)",
    "answer": "multi-class: the largest probability times `weights`; multi-label: every class at or over `thresholds`",
}


@dataclass(frozen=True)
class Exported:
    """One finished export."""

    folder: Path
    record: dict[str, Any]

    def sentence(self) -> str:
        """What a person is told."""
        found, record = self.record["parity"], self.record
        checked = (
            f"{found['checked']} answers as model.onnx on {found['images']} odd images (probabilities within "
            f"{found['probabilities']:.2g})"
        )
        run = f". NOT RUN: {record['why_not_run']}" if record["not_run"] else ""
        return f"{record['version']} as {record['format']} is in {self.folder}: {checked}{run}"


def export(folder: Path, version: str, format_name: str, out: Path, uri: str | None = None) -> Exported:
    """Write the bundle in `folder`, called `version`, in a format of FORMATS as the new folder `out`.

    Replaces an older export there, and nothing else. Raises BundleDamaged, ParityFailed and, for a missing library or
    another folder at `out`, EvergreenError; `out` then is as before.
    """
    chosen = find(format_name)
    refuse_other(out)
    bundle.verify(folder)
    source = Source(folder, bundle.read(folder), version, uri)
    write = writer(chosen)
    out.parent.mkdir(parents=True, exist_ok=True)  # as the umask says, unlike folders of the project
    with atomic_dir(out) as temporary:
        written = write(source, temporary)
        difference, images = check(source, written.run, written.sizes, written.bound, written.checked)
        write_json(temporary / ABOUT, describe(source))
        record = _record(source, chosen, written) | {
            "parity": {
                "checked": written.checked,
                "images": images,
                "probabilities": _short(difference.probabilities),
                "logits": _short(difference.logits),
                "features": _short(difference.features),
                "bound": written.bound,
            },
            "files": _files(temporary),
        }
        write_json(temporary / RECORD, record)
        _open_up(temporary)
    return Exported(out, record)


def find(name: str) -> Format:
    """The format called `name`. Raises EvergreenError that lists all."""
    if name not in FORMATS:
        raise EvergreenError(f"{name!r} is not a format: expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def refuse_other(out: Path) -> None:
    """Raise EvergreenError if `out` is anything else than missing, an empty folder or an export."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise EvergreenError(f"{out} is not a folder: name a new one with --out")
    if not out.is_dir() or not any(out.iterdir()):
        return
    try:
        known = isinstance(read_json(out / RECORD), dict)
    except (OSError, ValueError):
        known = False
    if not known:
        raise EvergreenError(
            f"{out} holds something that is not an export (no readable {RECORD}): name a new folder with --out, or "
            "remove this one"
        )


def describe(source: Source) -> dict[str, Any]:
    """model.json: what the answers mean."""
    found = {key: source.about.get(key) for key in ABOUT_KEYS}
    return {"schema": SCHEMA_VERSION, "version": source.version, "outputs": OUTPUTS} | found


def _record(source: Source, chosen: Format, written: Written) -> dict[str, Any]:
    return {
        "schema": SCHEMA_VERSION,
        "format": chosen.name,
        "version": source.version,
        "bundle": bundle.digest(source.bundle),
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "not_run": bool(written.not_run),
        "why_not_run": written.not_run,
        "tools": {"evergreen": VERSION, "python": platform.python_version()} | versions(written.tools),
    }


def versions(tools: Sequence[str]) -> dict[str, str]:
    """Distribution -> its installed version."""
    return {name: importlib.metadata.version(name) for name in tools}


def _files(folder: Path) -> dict[str, dict[str, Any]]:
    found = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        fsync_file(file)
        found[file.relative_to(folder).as_posix()] = {"sha256": sha256_file(file), "bytes": file.stat().st_size}
    return found


def _open_up(folder: Path) -> None:
    """Give `folder` the rights that the umask says: servers of other users read it."""
    probe = folder / ".rights"
    probe.mkdir()
    rights = probe.stat().st_mode & 0o777
    probe.rmdir()
    for path in (folder, *folder.rglob("*")):
        runs = path.stat().st_mode & 0o100  # a script stays one
        path.chmod(rights if path.is_dir() or runs else rights & 0o666)


def _short(value: float) -> float:
    return float(f"{value:.3g}")
