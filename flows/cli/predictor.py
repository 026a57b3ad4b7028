"""The commands of the HTTP predictor: `serve`, `pin`, `unpin` and `humans-only`."""

from typing import Annotated, Literal

import typer

from flows.cli.text import for_terminal
from tasks.common.paths import project_root

WHY = "Why; shown in `evergreen status` and kept."
HERE = "`evergreen serve` follows on this machine within predictor.refresh_seconds"


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on, instead of predictor.host.")] = None,
    port: Annotated[int | None, typer.Option(help="Port, instead of predictor.port; 0: a free one.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a first model if none is live yet.")] = False,
) -> None:
    """Answer images over HTTP with the live model, until Ctrl-C. Every answer goes to the production log."""
    from flows.predictor.run import serve as begin

    begin(project_root(), host, port, wait, say=lambda line: typer.echo(for_terminal(line, 400)))


def pin(
    version: Annotated[str, typer.Argument(help="Version that answers: v0.2.0.")],
    why: Annotated[str, typer.Option(help=WHY)] = "",
) -> None:
    """Let one version answer on this machine, whatever is live. Works with the store away if it ran here before."""
    from flows.predictor.pin import pin as begin
    from tasks.common.person import person

    root = project_root()
    new = begin(root, version, person(root), why, say=lambda line: typer.echo(for_terminal(line, 400), err=True))
    typer.echo(f"{for_terminal(new.version)} is pinned: {HERE}; `evergreen unpin` ends it")


def unpin() -> None:
    """Let the live version answer on this machine again."""
    from tasks.common.person import person
    from tasks.releases.switches import end_pin

    root = project_root()
    ended = end_pin(root, person(root))
    typer.echo(f"{for_terminal(ended.version)} is not pinned any more: {HERE}" if ended else "no version was pinned")


def humans_only(
    switch: Annotated[Literal["on", "off"], typer.Argument(help="on: people look at every answer; off: as usual.")],
    why: Annotated[str, typer.Option(help=WHY)] = "",
) -> None:
    """Flag every answer on this machine for review by people, or no longer. Works with the store away."""
    from tasks.common.person import person
    from tasks.releases.switches import set_humans_only

    root = project_root()
    before = set_humans_only(root, switch == "on", person(root), why)
    if (switch == "on") == (before is not None):
        typer.echo(f"humans-only was {switch} already")
    elif switch == "on":
        typer.echo(f"people look at every answer: {HERE}; `evergreen humans-only off` ends it")
    else:
        typer.echo(f"people look at unsure answers only: {HERE}")


COMMANDS = [serve, pin, unpin, humans_only]
