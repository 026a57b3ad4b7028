"""The `evergreen` commands about production: score, queue, monitor, webhook.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def score(
    source: Annotated[str, typer.Argument(help="Folder or manifest of images, or s3://bucket/prefix.")],
    name: Annotated[
        str | None, typer.Option("--source", help="Camera or site of images that name none; label quotas use it.")
    ] = None,
    at_column: Annotated[
        str | None, typer.Option("--at-column", help="Column with the time, if it cannot be guessed.")
    ] = None,
    source_column: Annotated[
        str | None, typer.Option("--source-column", help="Column with the camera or site.")
    ] = None,
    key_column: Annotated[
        str | None, typer.Option("--key", help="Column with your own name of each image: order number, part id.")
    ] = None,
    slice_columns: Annotated[
        list[str] | None, typer.Option("--slice", help="Column to judge by: product, shift. Can be repeated.")
    ] = None,
    layout: Annotated[
        str | None, typer.Option(help="What the paths say, e.g. '{source}/{time}_{*}'; see `evergreen init`.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When images that name no time were taken, e.g. 2026-05-03T12:00Z. Default: now.")
    ] = None,
    shuffle_time: Annotated[
        float, typer.Option("--shuffle-time", min=0, help="Spread these over so many hours before that, at random.")
    ] = 0.0,
) -> None:
    """Answer images with the live model and write the answers to the production log."""
    from flows.production.score import score as run

    columns = {"at_column": at_column, "source_column": source_column}
    columns |= {"key_column": key_column, "slice_columns": slice_columns or ()}
    options = {"at": _time(at), "shuffle_hours": shuffle_time}
    found = run(project_root(), source, name=name, layout=layout, **columns, **options)
    for line in found.lines():
        typer.echo(line)


def _time(text: str | None) -> datetime | None:
    """The time that `--at` names, in UTC."""
    from tasks.common.errors import EvergreenError
    from tasks.sources.fields import Unusable
    from tasks.sources.times import Times

    try:
        return Times().read(text)
    except Unusable as error:
        raise EvergreenError(f"--at: {error.detail}") from None


def queue(
    pick: Annotated[
        float | None, typer.Option(min=0, help="First pick the most informative samples of this many latest hours.")
    ] = None,
    pick_data: Annotated[
        int | None,
        typer.Option("--pick-data", min=1, help="First pick so many images of the data set that have no label."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a table to fill in, with the images in a folder next to it.")
    ] = None,
    label_studio: Annotated[
        Path | None, typer.Option("--label-studio", help="Write Label Studio's tasks (.json) and interface (.xml).")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page on which to label in any browser.")] = None,
) -> None:
    """List the samples that wait for a label, or write them to a file for people to label."""
    from flows.labels.data_queue import DataQueue, pick_and_forecast
    from flows.production.queue_export import export_queue
    from tasks.common.params import load_params
    from tasks.common.text import one_line

    root = project_root()
    params = load_params(root / "params.yaml")
    if pick_data is not None:
        found, gain = pick_and_forecast(root, params, pick_data)
        typer.echo(f"{len(found)} images of the data set picked")
        for line in gain:
            typer.echo(f"  {line}")
    waiting, picked = export_queue(root, pick_hours=pick, csv_file=csv, label_studio_file=label_studio, html=html)
    data = DataQueue(root, params).entries
    if pick is not None:
        typer.echo(f"{len(picked)} samples picked")
    typer.echo(f"{len(waiting)} samples wait for a label")
    if data:
        typer.echo(f"{len(data)} images of the data set wait for a label")
    for file in filter(None, (csv, label_studio, html)):
        typer.echo(f"  written to {file}")
    if not any((csv, label_studio, html)):
        for entry in waiting[:20]:
            own = one_line(" ".join(filter(None, (entry.source, entry.key, entry.path))))
            typer.echo(f"  {entry.id[:12]}  {entry.at:%Y-%m-%d %H:%M}  {entry.why:<10}  {own}")
        if len(waiting) > 20:
            typer.echo(f"  ... and {len(waiting) - 20} more")
        for asked in data[:20]:
            typer.echo(f"  {asked.id[:12]}  {asked.why:<10}  {asked.detail}  {one_line(asked.source or '')}")
        if len(data) > 20:
            typer.echo(f"  ... and {len(data) - 20} more")


COMMANDS += [score, queue]


def monitor() -> None:
    """Check the newest window of production for drift now, and act on it. `evergreen up` does it on schedule."""
    from flows.production.monitor import monitor_and_record

    typer.echo(monitor_and_record(project_root(), typer.echo))


COMMANDS += [monitor]
