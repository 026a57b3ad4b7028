"""The `evergreen` commands `backup` and `restore`.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def backup(
    to: Annotated[Path, typer.Argument(help="New file, or a folder in which to make one named by project and time.")],
    data: Annotated[
        bool,
        typer.Option("--data", help="Also the data set: each object of DVC that is needed and here."),
    ] = False,
) -> None:
    """Write the state that git does not track into one file: labels, log, releases, queues, pending decisions."""
    from rich.console import Console

    from flows.backup.backup import backup as make

    console = Console()
    with console.status("waiting") as status:
        file, manifest = make(project_root(), to, data=data, step=lambda text: status.update(text))
    size = sum(member.bytes for member in manifest.files.values())
    console.print(f"{file}: {len(manifest.files)} files, {size:,} bytes", soft_wrap=True, markup=False, highlight=False)
    for text in manifest.left_out:
        console.print(f"  without {text}", soft_wrap=True, markup=False, highlight=False)
    console.print(
        "It holds images and names and is not encrypted: keep it where only you can read it. Restore it in a clone: "
        "`evergreen restore FILE`.",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )


def restore(
    archive: Annotated[Path, typer.Argument(help="File that `evergreen backup` made.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace state that differs; it is set aside in .evergreen/replaced.")
    ] = False,
) -> None:
    """Put a backup into this clone: every digest is compared first, and what was erased since stays erased."""
    from rich.console import Console

    from flows.backup.restore import restore_backup

    console = Console()
    with console.status("reading") as status:
        said = restore_backup(project_root(), archive, force=force, step=lambda text: status.update(text))
    for text in said:
        console.print(text, soft_wrap=True, markup=False, highlight=False)


COMMANDS += [backup, restore]
