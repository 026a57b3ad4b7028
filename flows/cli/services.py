"""The commands `status`, `up`, `open` and `down`."""

from typing import Annotated

import typer

from flows.cli.text import for_terminal
from tasks.common.paths import project_root


def status() -> None:
    """Show what is live, what runs and where, what the monitor last found, and what comes next."""
    from datetime import UTC, datetime

    from flows.hard_set.looks import status_lines as hard_lines
    from flows.labels.status import label_lines
    from flows.production.queue_export import assigned_lines
    from flows.publishing.run_list import held_runs
    from flows.publishing.store_away import store_away
    from flows.repo.tombstones import in_force
    from flows.repo.workspace import alive_runs
    from flows.runs.lease import EXPIRES, elsewhere
    from flows.runs.overview import newest_ended
    from flows.services.up import status_lines
    from monitoring.mutes import active_mutes
    from tasks.common.params import load_params
    from tasks.releases.nothing_live import nothing_live
    from tasks.releases.pause import pause_of
    from tasks.releases.store import open_store

    root = project_root()
    params = load_params(root / "params.yaml")
    releases = open_store(params.store, root)
    live = releases.live()
    since = f"{live.version} since {live.at:%Y-%m-%d %H:%M} UTC by {live.by}" if live else "nothing yet"
    clone = live is None and (root / "data.dvc").is_file() and not (root / "data").exists()
    away = None if live or clone else store_away(root, params, releases)
    typer.echo(f"live:        {away or since}{' (`evergreen releases` says why)' if live else ''}")
    if live is None and releases.runs():
        typer.echo(f"             {nothing_live(releases)}")
    elif clone:
        typer.echo("             a fresh clone: `evergreen connect` finds its releases and data")
    if holding := pause_of(releases):
        typer.echo(f"paused:      {for_terminal(holding.sentence())}; `evergreen resume` ends it")
    for one in active_mutes(root):
        typer.echo(f"muted:       {for_terminal(one.sentence())}")
    for run in held_runs(root, releases):
        compared = f": `evergreen diff {live.version} {run.run_id}` compares," if live and run.rev else ":"
        typer.echo(f"held:        {run.run_id} waits for a person{compared}")
        typer.echo(f"             `evergreen approve {run.run_id}` publishes it, `evergreen refuse` ends the question")
    if live and (why := releases.provisional(live.bundle)):
        typer.echo(f"provisional: {for_terminal(why)}; more labels make a better one")
    typer.echo(f"running:     {', '.join(alive_runs(root)) or 'no run'}")
    if row := newest_ended(root, releases):
        words = f"{row.words} {row.version or ''}".strip()
        typer.echo(f"last run:    {row.id}: {words}; began {for_terminal(row.why)} (`evergreen runs` lists all)")
    for run, host, at in elsewhere(releases, root):
        dead = ": probably dead" if (datetime.now(UTC) - at).total_seconds() > 2 * EXPIRES else ""
        life = f"last sign of life {at:%Y-%m-%d %H:%M:%S} UTC{dead}"
        typer.echo(f"elsewhere:   {for_terminal(run)} on {for_terminal(host)}, {life}")
    for line in status_lines(root):
        typer.echo(line)
    for line in label_lines(root, live):
        typer.echo(f"labels:      {for_terminal(line)}")
    for line in hard_lines(root):
        typer.echo(f"hard set:    {for_terminal(line, 400)}")
    for line in assigned_lines(root, params):
        typer.echo(f"labelling:   {for_terminal(line)}")
    held = in_force(releases.tombstones(), params)
    for batch, about in releases.tombstones().items():
        typer.echo(f"tombstoned:  {batch}: {about['why']}; `evergreen tombstone {batch} --undo --why ...` allows it")
        if batch not in held:
            typer.echo("             data or validate in params.yaml has changed since: the next run judges it again")


def up() -> None:
    """Start all services in the background: Prefect server, schedules, the console, Evidently's UI.

    A service that dies is restarted. All listen on this machine only, unless params.yaml says otherwise.
    """
    from flows.services.sign_in import sign_in_line
    from flows.services.up import up as start

    start(project_root(), typer.echo)
    typer.echo(sign_in_line(project_root()))
    typer.echo("             `evergreen open` opens it in your browser; `evergreen people add` lets others in")


def open_console(
    show: Annotated[
        bool, typer.Option("--show", help="Print a link that signs in and what programs send, and open nothing.")
    ] = False,
    env: Annotated[
        bool, typer.Option("--env", help="Print the variables that the `prefect` command needs, for a shell's `eval`.")
    ] = False,
) -> None:
    """Open the console in your browser, signed in."""
    from flows.services.sign_in import export_lines, sign_in_lines
    from flows.services.sign_in import open_console as show_console

    lines = export_lines if env else sign_in_lines if show else show_console
    for line in lines(project_root()):
        typer.echo(line)


def down() -> None:
    """Stop all services and runs of this project. A stopped run later continues from its finished stages."""
    from flows.services.up import down as stop

    count = stop(project_root())
    typer.echo(f"stopped {count} process(es)" if count else "nothing of this project was running")


COMMANDS = [status, up, down]
