"""The `evergreen tokens` commands: which programs may use the predictor, and for what.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from flows.cli.app import App
from flows.cli.text import for_terminal
from tasks.common.paths import project_root
from tasks.common.person import person

app = App(help="Say which programs may use the predictor, and for what.")

Name = Annotated[str, typer.Argument(help="The program's name, as records of its feedback will show it.")]


@app.command()
def create(
    name: Name,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="predict (default), feedback or metrics. Can be repeated."),
    ] = None,
) -> None:
    """Let a program in: prints its token, which is not stored and cannot be shown again."""
    from flows.predictor import tokens

    root = project_root()
    scopes = tuple(scope or tokens.DEFAULT)
    token = tokens.create(root, name, scopes, person(root))
    typer.echo(f"{for_terminal(name)} may now use {_routes(scopes)}. Its token, shown only now:", err=True)
    typer.echo(token)
    typer.echo('It goes into the header "Authorization: Bearer TOKEN" of each request.', err=True)


def _routes(scopes: Sequence[str]) -> str:
    """ "/predict, /feedback and /metrics"."""
    *most, last = [f"/{one}" for one in dict.fromkeys(scopes)]
    return f"{', '.join(most)} and {last}" if most else last


@app.command("list")
def list_() -> None:
    """List the tokens: names, what each may do, since when."""
    from flows.predictor import tokens

    known = tokens.read_tokens(project_root())
    for name, one in sorted(known.items(), key=lambda pair: (pair[1].revoked is not None, pair[0])):
        state = f"revoked on {one.revoked:%Y-%m-%d}" if one.revoked else ", ".join(one.scopes)
        typer.echo(f"{for_terminal(name):<24}{state:<28}since {one.since:%Y-%m-%d}, made by {for_terminal(one.by)}")
    if not known:
        typer.echo("none yet: `evergreen tokens create NAME` makes one; the checkout's own secret opens everything")


@app.command()
def revoke(name: Name) -> None:
    """Let a program in no more; running servers know within a second. Records keep the name."""
    from flows.predictor import tokens

    root = project_root()
    tokens.revoke(root, name, person(root))
    typer.echo(f"the token of {for_terminal(name)} opens nothing any more")
