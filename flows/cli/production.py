"""The `evergreen` commands about production: score, review, monitor, webhook.

Only light imports at the top: every `evergreen` command loads this module.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def score(
    source: Annotated[str, typer.Argument(help="Folder or manifest of images, or s3://bucket/prefix.")],
    name: Annotated[
        str | None, typer.Option("--source", help="Camera or site of images that name none; quotas go by it.")
    ] = None,
    at_column: Annotated[
        str | None, typer.Option("--at-column", help="Column with the time, where it cannot be guessed.")
    ] = None,
    source_column: Annotated[str | None, typer.Option("--source-column", help="Column with the camera.")] = None,
) -> None:
    """Answer every image with the live model and write the production log, as serving with capture does."""
    from flows.production.score import score as run

    found = run(project_root(), source, name=name, at_column=at_column, source_column=source_column)
    for line in found.lines():
        typer.echo(line)


def queue(
    pick: Annotated[
        float | None, typer.Option(help="First pick the most informative samples of so many last hours.")
    ] = None,
    csv: Annotated[Path | None, typer.Option("--csv", help="Write them to fill in, images beside it.")] = None,
    label_studio: Annotated[
        Path | None, typer.Option("--label-studio", help="Write Label Studio tasks (.json) and its interface (.xml).")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page to label on, in any browser.")] = None,
) -> None:
    """Which production samples wait for a label; write them out for people."""
    from flows.production.review import queue as run

    waiting, picked = run(project_root(), pick_hours=pick, csv_file=csv, label_studio_file=label_studio, html=html)
    if pick is not None:
        typer.echo(f"{len(picked)} samples picked")
    typer.echo(f"{len(waiting)} samples wait for a label")
    for file in filter(None, (csv, label_studio, html)):
        typer.echo(f"  written to {file}")
    if not any((csv, label_studio, html)):
        for entry in waiting[:20]:
            typer.echo(f"  {entry.id[:12]}  {entry.at:%Y-%m-%d %H:%M}  {entry.why:<10}  {entry.source or ''}")


def label(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines or Parquet (id, label, annotator); Label Studio JSON.")],
    annotator: Annotated[str | None, typer.Option(help="Who gave labels that name nobody; default: you.")] = None,
    quota: Annotated[bool, typer.Option(help="Limit what one source may give without having been asked.")] = True,
    new_classes: Annotated[bool, typer.Option("--new-classes", help="Accept labels the model does not know.")] = False,
    ingest: Annotated[bool, typer.Option(help="Take the labelled images into data/, for the next retrain.")] = True,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc (and nothing else) to git.")] = True,
) -> None:
    """Take people's labels of production samples: into the log, and with the images into data/."""
    from flows.production.review import label as run

    options = {"quota": quota, "new_classes": new_classes, "ingest": ingest, "commit": commit}
    found = run(project_root(), file, annotator=annotator, **options)
    for line in found.lines():
        typer.echo(line)
    if found.refused and not (found.kept or found.repeated):  # nothing in it could be used
        raise typer.Exit(1)


COMMANDS += [score, queue, label]


def monitor() -> None:
    """Look at the newest window of production now: measure, decide, report, act. `evergreen up` does it on schedule."""
    from flows.production.monitor import monitor_and_record

    typer.echo(monitor_and_record(project_root(), typer.echo))


COMMANDS += [monitor]
