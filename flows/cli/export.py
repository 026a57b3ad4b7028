"""The `evergreen export` command."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []
FORMAT_HELP = "What to write. Without one, the formats are listed."
VERSION_HELP = "live, a version, or a folder with a bundle."
OUT_HELP = "New folder for the export; an older export there is replaced. Default: .evergreen/exports/VERSION-FORMAT."
URI_HELP = "Where you will put the folder (s3://..., gs://..., pvc://...), for formats that name it."


def export(
    format_name: Annotated[str | None, typer.Argument(metavar="[FORMAT]", help=FORMAT_HELP)] = None,
    version: Annotated[str, typer.Option("--version", help=VERSION_HELP)] = "live",
    out: Annotated[Path | None, typer.Option("--out", help=OUT_HELP)] = None,
    uri: Annotated[str | None, typer.Option("--uri", help=URI_HELP)] = None,
) -> None:
    """Write a version for another server or runtime, once it answers as the model does on 64 odd images."""
    from flows.cli.text import SENTENCES, for_terminal

    if format_name is None:
        _list_formats()
        return
    from flows.versions.export import export_version

    made = export_version(project_root(), format_name, version, out, uri)
    typer.echo(for_terminal(made.sentence(), SENTENCES))


def _list_formats() -> None:
    from rich.console import Console
    from rich.table import Table

    from tasks.export.formats import FORMATS, missing

    table = Table(box=None, pad_edge=False)
    for column in ("format", "what", "here"):
        table.add_column(column)
    for one in FORMATS.values():
        table.add_row(one.name, one.what, f"needs `{one.install}`" if missing(one) else "ready")
    Console().print(table)


COMMANDS += [export]
