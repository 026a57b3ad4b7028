"""The `evergreen quantise` command."""

from collections.abc import Callable
from typing import Annotated

import typer

from flows.cli.text import SENTENCES, for_terminal
from tasks.common.paths import project_root
from tasks.common.person import person

COMMANDS: list[Callable] = []


def quantise(
    version: Annotated[str, typer.Argument(help="live, a version, or a held run.")] = "live",
    most_lost: Annotated[
        float,
        typer.Option(
            "--most-lost",
            min=0.0,
            help="Divergence from the float model (nats an image, on calibration images) up to which parts of the "
            "network compute in int8; the most sensitive parts stay in float.",
        ),
    ] = 0.01,
    why: Annotated[str, typer.Option(help="Why; recorded with the run.")] = "",
) -> None:
    """Make the int8 form of a version, judge it, and hold it for approval: faster, for a few points."""
    from flows.publishing.outcomes import EXIT_CODES
    from flows.runs.quantise import quantise as run

    root = project_root()
    run_id, found, ending = run(root, version, bound=most_lost, by=person(root), why=why, say=typer.echo)
    for line in found.lines():
        typer.echo(for_terminal(line))
    typer.echo(f"{ending.outcome} ({run_id}): {for_terminal(ending.sentence, SENTENCES)}")
    if code := EXIT_CODES[ending.outcome]:
        raise typer.Exit(code)


COMMANDS += [quantise]
