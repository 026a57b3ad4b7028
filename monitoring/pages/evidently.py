"""The Evidently workspace: one small snapshot per window, for Evidently's own UI and dashboard.

    workspace/<PROJECT>/{metadata,dashboard}.json, snapshots/<time-ordered id of the window>.json

monitoring.pages.snapshot makes the snapshots. Old ones lose their plots, because a UI process keeps all snapshots in
memory. HTML (4 MB) is rendered on demand and never stored.
"""

import json
import os
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path

from monitoring.pages.columns import MeasuredWindow
from monitoring.pages.snapshot import MEASURE, make_snapshot, quiet, without_plots
from tasks.common.errors import EvergreenError
from tasks.common.files import fsync_dir, sha256_bytes
from tasks.common.paths import state_dir
from tasks.common.private import make_folder, open_private
from tasks.common.rebuildable import expect, read_rebuildable

PROJECT = uuid.UUID("5f0e7c1a-3b52-5d0c-9a51-0e0e9d0f8a11")  # constant: a second project would split the history
WHOLE = 500  # newest snapshots that keep their plots; older ones keep the values, which the dashboard needs


def add(workspace: Path, shown: MeasuredWindow, *, rows: int = 500, keep: int = 5_000) -> Path:
    """Write the window's snapshot and delete the oldest beyond `keep`; returns its path.

    rows: sampled from window and reference. The same window again replaces its snapshot.
    """
    snapshot = make_snapshot(shown, rows)
    project = _project(workspace)
    path = project / "snapshots" / f"{snapshot_id(shown.measures.window.id)}.json"
    _place(workspace, path, _json(snapshot))
    _drop_old_plots(workspace)
    prune(workspace, keep)
    return path


def workspace_dir(root: Path) -> Path:
    """The folder of the project's Evidently workspace."""
    return state_dir(root) / "evidently"


def prune(workspace: Path, keep: int) -> int:
    """Delete the oldest snapshots until `keep` are left; how many. Names sort by the window's time."""
    snapshots = sorted((workspace / str(PROJECT) / "snapshots").glob("*.json"))
    gone = snapshots[: max(len(snapshots) - keep, 0)]
    for path in gone:
        path.unlink(missing_ok=True)
    return len(gone)


def html(workspace: Path, window_id: str) -> str:
    """The window's snapshot as Evidently's own page, 4 MB. Raises EvergreenError if there is none."""
    found = _find(workspace, window_id)
    with quiet():
        from evidently.core.report import Snapshot

        return Snapshot.loads(found.read_text(encoding="utf-8")).get_html_str(as_iframe=False)


def ui_path(workspace: Path, window_id: str) -> str:
    """The path of the window in Evidently's UI. Raises EvergreenError if there is no snapshot."""
    return f"/projects/{PROJECT}/reports/{_find(workspace, window_id).stem}"


def has(workspace: Path, window_id: str) -> bool:
    """Whether there is a snapshot of the window."""
    try:
        return _find(workspace, window_id).is_file()
    except EvergreenError:
        return False


def evidently_ui_command(workspace: Path, port: int) -> list[str]:
    """The command that serves Evidently's UI on loopback, behind a guard (starts in about 11 s).

    Run it in the project's folder with DO_NOT_TRACK=1.
    """
    _project(workspace)  # the UI reads projects when it starts
    return [sys.executable, "-m", "monitoring.pages.evidently_server", str(workspace), str(port)]


def snapshot_id(window_id: str) -> uuid.UUID:
    """A version 7 UUID (RFC 9562) from the window's end.

    It sorts by time and is the same for the same window.
    """
    end = datetime.strptime(window_id.partition("-")[2], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    random = int(sha256_bytes(window_id.encode())[:20], 16)
    value = int(end.timestamp() * 1000) << 80 | random
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)


def _drop_old_plots(workspace: Path) -> None:
    """Remove the plots of snapshots that just became older than WHOLE.

    The plots of thousands of windows would need gigabytes of memory.
    """
    snapshots = sorted((workspace / str(PROJECT) / "snapshots").glob("*.json"))
    for path in snapshots[-WHOLE - 20 : -WHOLE]:  # 20, in case an earlier one was missed
        whole = read_rebuildable(path, lambda about: expect(about, dict), "the dashboard leaves this window out")
        reduced = whole and without_plots(whole, f"Plots are kept for the newest {WHOLE} windows.")
        if reduced is not None:
            _place(workspace, path, _json(reduced))


def _json(snapshot: dict) -> str:
    return json.dumps(snapshot, separators=(",", ":"), allow_nan=False)


def _project(workspace: Path) -> Path:
    """The project's folder, with description and dashboard.

    These are written only if missing, because a user may change them.
    """
    folder = workspace / str(PROJECT)
    make_folder(folder / "snapshots")
    if not (folder / "dashboard.json").exists():
        _place(workspace, folder / "dashboard.json", json.dumps(_dashboard()))
    if not (folder / "metadata.json").exists():
        about = {
            "id": str(PROJECT),
            "name": "Production",
            "description": "Production windows compared with the model's own reference",
        }
        _place(workspace, folder / "metadata.json", json.dumps(about))
    return folder


def _dashboard() -> dict:
    """Panels of the history: Evergreen's measures and Evidently's count of drifted columns.

    Only these, because each series costs the browser half a second at 5,000 windows.
    """

    def panel(number: int, title: str, subtitle: str, kind: dict, metric: str, legend: str, view: str | None) -> dict:
        values = [
            {
                "metric": f"evidently:metric_v2:{metric}",
                "legend": legend,
                "tags": [],
                "metadata": {},
                "metric_labels": {"value_type": view} if view else {},
                "view_params": {},
            }
        ]
        id_ = str(uuid.uuid5(PROJECT, str(number)))
        return {
            "id": id_,
            "title": title,
            "subtitle": subtitle,
            "size": "full",
            "values": values,
            "plot_params": kind,
        }

    line = {"plot_type": "line"}
    panels = [
        panel(
            *(1, "Evergreen's measures, relative to their thresholds"),
            "Calibrated for this model; decisions rest on them. Above 1 is drift.",
            *(line, MEASURE.rsplit(":", 1)[1], "{{measure}}", None),
        ),
        panel(
            *(2, "Columns that Evidently finds drifted"),
            "Kolmogorov-Smirnov and chi-square tests of sampled columns, as a second opinion.",
            *({"plot_type": "bar", "is_stacked": False}, "DriftedColumnsCount", "columns", "count"),
        ),
    ]
    tab = {"id": str(uuid.uuid5(PROJECT, "tab")), "title": "Drift", "panels": [panel["id"] for panel in panels]}
    return {"tabs": [tab], "panels": panels}


def _find(workspace: Path, window_id: str) -> Path:
    """The window's snapshot, found by name because the id contains the window's end."""
    path = workspace / str(PROJECT) / "snapshots" / f"{snapshot_id(window_id)}.json"
    if not path.is_file():
        raise EvergreenError(
            f"there is no Evidently snapshot of window {window_id}: it was pruned (report.keep in params.yaml), or the "
            "window was never reported"
        )
    return path


def _place(workspace: Path, path: Path, text: str) -> None:
    """Write `path` completely or not at all.

    The temporary file is outside the workspace. A running UI watches the workspace and notices files that are moved in
    from outside, but not files renamed within it.
    """
    outside = workspace.parent / f".{workspace.name}.tmp"
    make_folder(outside)
    temporary = outside / f"{uuid.uuid4().hex}.json"
    try:
        with open(temporary, "x", encoding="utf-8", opener=open_private) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
