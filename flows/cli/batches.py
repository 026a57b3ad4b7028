"""The `evergreen` commands about batches: tombstone, relabel.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli.text import SENTENCES, for_terminal
from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def tombstone(
    batch: Annotated[str, typer.Argument(help="Batch id, b-...")],
    why: Annotated[str, typer.Option(help="Why; recorded with the tombstone.")],
    undo: Annotated[bool, typer.Option("--undo", help="Allow the batch again.")] = False,
) -> None:
    """Keep a batch, but never train on it again."""
    from flows.project.tombstoning import lift_tombstone, tombstone_batch
    from tasks.common.person import person

    root = project_root()
    typer.echo((lift_tombstone if undo else tombstone_batch)(root, batch, why, person(root)))


def relabel(
    batch: Annotated[str, typer.Argument(help="Batch id, b-...")],
    given: Annotated[str, typer.Option("--given", help="Class that its images are labelled as.")],
    why: Annotated[str, typer.Option(help="Why; recorded with each label.")],
    right: Annotated[str | None, typer.Option("--right", help="Class that they are.")] = None,
    exclude: Annotated[bool, typer.Option("--exclude", help="Leave them out instead.")] = False,
    swap: Annotated[bool, typer.Option("--swap", help="Images labelled as RIGHT become GIVEN, too.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")] = False,
) -> None:
    """Correct one class of a whole batch, as a reviewer. `evergreen undo` takes the batch of words back."""
    from flows.labels.batch_labels import plan_fix, take_fix
    from flows.production.labels import known_classes
    from tasks.common.errors import EvergreenError
    from tasks.common.params import load_params

    if exclude == (right is not None):
        raise EvergreenError("say what these images are (--right CLASS), or leave them out (--exclude)")
    root = project_root()
    known = known_classes(root, load_params(root / "params.yaml"))
    plan = plan_fix(root, batch, given, right, swap=swap, known=known or None)
    for line in plan.lines():
        typer.echo(for_terminal(line, SENTENCES))
    if not dry_run:
        typer.echo(take_fix(root, plan, why).sentence())


COMMANDS += [tombstone, relabel]
