"""`evergreen replay`: captured traffic through any version."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.common.paths import project_root

if TYPE_CHECKING:
    from flows.production.replay import Replay

COMMANDS: list[Callable] = []


def replay(
    model: Annotated[str, typer.Argument(help="Version, run, live, or a folder with a bundle: it answers again.")],
    since: Annotated[
        str | None, typer.Option(help="First moment (UTC), e.g. 2026-12-01 or 2026-12-01T08:00. Default: see --hours.")
    ] = None,
    until: Annotated[str | None, typer.Option(help="End. Default: right after the newest answer.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Without --since: so many hours before the end.")] = 24.0,
    against: Annotated[
        str | None, typer.Option(help="Compare with this model's answers. Default: with those that were given.")
    ] = None,
    given_by: Annotated[
        str | None, typer.Option("--given-by", help="Only what this version had answered, e.g. v0.3.0.")
    ] = None,
    source: Annotated[str | None, typer.Option(help="Only of this camera or site.")] = None,
    most: Annotated[int, typer.Option(min=1, help="Images, drawn at random; and as many that have a label.")] = 2_000,
    page: Annotated[Path | None, typer.Option(help="HTML file to write the comparison to.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Answer captured traffic again with another model, and compare: agreement, flips, accuracy where labels exist."""
    from flows.production.replay import replay as run
    from flows.production.replay import span
    from flows.publishing.history import open_project
    from monitoring.log.production_log import open_log

    root = project_root()
    params, _ = open_project(root)
    newest = None if until else open_log(root, params).last_at()
    first, end = span(since, until, newest, hours)
    options = {"against": against, "given_by": given_by, "source": source, "most": most}
    found = run(root, model, since=first, until=end, **options)
    if page is not None:
        from monitoring.pages.two_models import replay_page
        from tasks.common.files import atomic_path

        with atomic_path(page) as temporary:
            temporary.write_text(replay_page(found.model_dump()), encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        _print(found)
    if page is not None:
        typer.echo(f"the comparison is in {page}", err=True)


COMMANDS += [replay]


def _print(found: "Replay") -> None:
    from rich.console import Console

    from flows.cli.tables import print_table
    from flows.cli.text import SENTENCES, for_terminal
    from monitoring.pages.two_models import lines, said

    console = Console()
    for line in lines(found.model_dump()):
        typer.echo(for_terminal(line, SENTENCES))
    both = found.found
    flips = [(said(one.old), said(one.new), one.images, " ".join(i[:12] for i in one.examples)) for one in both.flips]
    print_table(console, "answers that changed", ("was", "is", "images", "e.g."), flips)
    changes = [(one.name, one.old, one.new, one.kept) for one in both.classes if one.old + one.new - 2 * one.kept]
    print_table(console, "answers by class", ("class", "was", "is", "kept"), changes)
    rows = [
        (
            one.name,
            one.images,
            f"{one.old:.1%}",
            f"{one.new:.1%}",
            f"{100 * one.low:+.1f} .. {100 * one.high:+.1f}",
            one.verdict,
        )
        for one in both.recalls
    ]
    print_table(console, "right, by true class", ("class", "labels", "was", "is", "points", ""), rows)
