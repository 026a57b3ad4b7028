"""The commands `pause` and `resume`."""

from typing import Annotated

import typer

from tasks.common.paths import project_root


def pause(
    why: Annotated[str, typer.Option(help="Why; shown on every page and in `evergreen status`.")],
    until: Annotated[
        str | None, typer.Option(help="Until when: 8h, 3d, 2026-12-01, 2026-12-01T08:00Z. Default: until `resume`.")
    ] = None,
) -> None:
    """Let nothing retrain, go live or roll back by itself for a while; monitoring and alerts go on.

    It holds on every machine that uses this release store. What people start and approve goes on.
    """
    from flows.publishing.history import open_project
    from monitoring.until import until_time
    from tasks.common.person import person
    from tasks.releases.pause import pause as begin

    root = project_root()
    end = until_time(until) if until else None
    new = begin(open_project(root)[1], by=person(root), why=why, until=end)
    typer.echo(f"{new.sentence()}; `evergreen resume` ends it")


def resume() -> None:
    """End a pause: Evergreen may retrain, promote and roll back by itself again."""
    from flows.publishing.history import open_project
    from flows.runs.single_flight import wanted
    from tasks.common.person import person
    from tasks.releases.pause import resume as end

    root = project_root()
    ended = end(open_project(root)[1], by=person(root))
    typer.echo(f"resumed; it was {ended.sentence()}" if ended else "nothing was paused")
    if ended and (reasons := wanted(root)):
        typer.echo(f"waiting for a retraining, which the next monitor run asks for: {'; '.join(reasons)}")


COMMANDS = [pause, resume]
