"""The `evergreen` commands about labels: label.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def label(
    file: Annotated[Path, typer.Argument(help="CSV, JSON lines or Parquet (id, label, annotator); Label Studio JSON.")],
    annotator: Annotated[str | None, typer.Option(help="Who gave labels without an annotator. Default: you.")] = None,
    quota: Annotated[bool, typer.Option(help="Limit the unsolicited labels of each source.")] = True,
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Accept labels that the model does not know.")
    ] = False,
    ingest: Annotated[bool, typer.Option(help="Add the labelled images to data/ for the next retraining.")] = True,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc (and nothing else) to git.")] = True,
) -> None:
    """Import people's labels of production samples into the log and, with the images, into data/."""
    from flows.production.labels import take_labels

    options = {"quota": quota, "new_classes": new_classes, "ingest": ingest, "commit": commit}
    found = take_labels(project_root(), file, annotator=annotator, **options)
    for line in found.lines():
        typer.echo(line)
    if found.refused and not (found.kept or found.repeated):  # nothing in it could be used
        raise typer.Exit(1)


COMMANDS += [label]
