"""The `evergreen` commands about production: score, queue, monitor, webhook.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from datetime import datetime
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


COMMANDS += [score]


def collect(
    where: Annotated[str, typer.Argument(help="Folder with captures of edge devices, or s3://bucket/prefix.")],
) -> None:
    """Take what edge devices captured into the production log, at the time and with the version of each answer."""
    from flows.cli.text import SENTENCES, for_terminal
    from flows.production.collect import collect as run

    for line in run(project_root(), where).lines():
        typer.echo(for_terminal(line, SENTENCES))


COMMANDS += [collect]


def monitor() -> None:
    """Check the newest window of production for drift now, and act on it. `evergreen up` does it on schedule."""
    from flows.production.monitor import monitor_and_record

    typer.echo(monitor_and_record(project_root(), typer.echo))


COMMANDS += [monitor]
