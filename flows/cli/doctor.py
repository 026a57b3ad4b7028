"""The commands `doctor` and `alerts`."""

import dataclasses
import json
from typing import Annotated

import typer

from flows.cli.text import for_terminal
from flows.doctor.quiet import without_warnings
from tasks.common.paths import project_root
from tasks.common.plural import counted

COLOURS = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list: check, state, text, cure.")] = False,
) -> None:
    """Check everything that a project needs, and say how to repair what is wrong.

    Looks at: Python, packages, git, DVC, store, remote, server, ports, alerts, disk, clock, permissions, ledgers, state
    files, waiting labels, formats. It changes nothing, but sets damaged state files aside as every command does. Exit
    code 1 if there is a problem; warnings alone give 0.
    """
    from flows.doctor.examine import examine

    found = []
    with without_warnings():  # what is damaged is a finding here, not a line in between
        for finding in examine(project_root()):
            found.append(finding)
            if not as_json:
                typer.secho(f"{finding.state:<8} ", fg=COLOURS[finding.state], nl=False)
                typer.echo(for_terminal(finding.line()))
    problems = sum(finding.state == "problem" for finding in found)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2, ensure_ascii=False))
    else:
        warnings = sum(finding.state == "warning" for finding in found)
        well = len(found) - problems - warnings
        typer.echo(f"{counted(problems, 'problem')}, {counted(warnings, 'warning')}, {well} ok")
    raise typer.Exit(1 if problems else 0)


def alerts(
    test: Annotated[int | None, typer.Option(help="Send a test to the address with this number.", min=1)] = None,
) -> None:
    """List where alerts go, without secrets, and those that have not arrived yet."""
    from monitoring import alerts as found
    from tasks.common.errors import EvergreenError
    from tasks.common.params import load_params
    from tasks.common.person import person

    root = project_root()
    if test is not None:
        if problem := found.send_test(root, test, person(root)):
            raise EvergreenError(f"address {test}: {problem.removesuffix(', will be tried again')}")
        typer.echo(f"address {test} took a test")
        return
    known = found.addresses(root)
    for one in known:
        typer.echo(
            f"{one.number}  {for_terminal(one.shown)}{'' if one.understood else '   apprise does not understand it'}"
        )
    if not known:
        typer.echo(f"no address: set {load_params(root / 'params.yaml').alerts.urls_env} before `evergreen up`")
    for one in found.unsent(root):
        typer.echo(f"waiting since {one.at:%Y-%m-%d %H:%M} UTC for {one.left} address(es): {for_terminal(one.title)}")


COMMANDS = [doctor, alerts]
