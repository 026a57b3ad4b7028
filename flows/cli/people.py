"""The `evergreen people` commands: who may use the console, and what each may do.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from typing import Annotated

import typer

from flows.cli.app import App
from flows.cli.text import for_terminal
from tasks.common.paths import project_root
from tasks.common.person import person

app = App(help="Say who may use the console, and what each may do.")

Name = Annotated[str, typer.Argument(help="The person's name, as records will show it.")]
Role = Annotated[
    str,
    typer.Option(
        help="viewer (sees every page), labeller (also labels), approver (also decides about models and data) or admin "
        "(also manages people and services)."
    ),
]
DAYS = "it works once, within 7 days; send it to this person only"


@app.command()
def add(name: Name, role: Role = "viewer") -> None:
    """Let a person in: prints a link on which they choose a passphrase."""
    from flows.console.people import store

    root = project_root()
    token = store.add(root, name, role, person(root))
    typer.echo(f"{for_terminal(name)} may now use the console as {role}. Their link ({DAYS}):")
    typer.echo(_link(token))


@app.command()
def link(name: Name) -> None:
    """Print a new link for a person who lost theirs, or forgot the passphrase."""
    from flows.console.people import store

    root = project_root()
    token = store.new_link(root, name, person(root))
    typer.echo(f"A link for {for_terminal(name)} to choose a passphrase ({DAYS}):")
    typer.echo(_link(token))


@app.command("list")
def list_() -> None:
    """List people with their roles."""
    from flows.console.people import store

    people = store.read_people(project_root()).people
    for name, known in sorted(people.items(), key=lambda pair: (pair[1].revoked is not None, pair[0])):
        state = f"revoked on {known.revoked:%Y-%m-%d}" if known.revoked else known.role
        waits = "" if known.revoked or known.passphrase else "; has not chosen a passphrase yet"
        said = f"since {known.since:%Y-%m-%d}, added by {for_terminal(known.by)}{waits}"
        typer.echo(f"{for_terminal(name):<24}{state:<22}{said}")
    if not people:
        typer.echo("nobody yet: `evergreen people add NAME --role approver` lets somebody in, `evergreen open` you")


@app.command()
def role(name: Name, role: Annotated[str, typer.Argument(help="viewer, labeller, approver or admin.")]) -> None:
    """Change what a person may do; it counts at once."""
    from flows.console.people import store

    root = project_root()
    store.set_role(root, name, role, person(root))
    typer.echo(f"{for_terminal(name)} is now {role}")


@app.command()
def revoke(name: Name) -> None:
    """Let a person in no more; their sign-ins end at once. Records keep the name."""
    from flows.console.people import store

    root = project_root()
    store.revoke(root, name, person(root))
    typer.echo(f"{for_terminal(name)} can no longer sign in")


def _link(token: str) -> str:
    from monitoring.console_link import console_link

    return f"  {console_link(project_root(), f'/join/{token}')}"
