"""The `evergreen` command.

Every command imports what it needs when it runs, so that `evergreen retrain` with nothing new stays under a second.
"""

import atexit
import os
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from flows.cli import (
    active,
    backup,
    batches,
    classes,
    decisions,
    distill,
    doctor,
    experiments,
    export,
    feedback,
    hard,
    labels,
    mistakes,
    pause,
    people,
    predictor,
    production,
    quantise,
    queue,
    replay,
    rollout,
    runs,
    services,
    tokens,
    versions,
)
from flows.cli import upgrade as upgrade_command
from flows.cli.app import App
from flows.cli.text import SENTENCES, for_terminal
from flows.startup import collect_less_garbage, keep_pandas_out
from tasks.common.errors import DamagedFile, EvergreenError
from tasks.common.loopback import no_proxy
from tasks.common.machine_limits import machine_error
from tasks.common.paths import main_checkout, project_root, state_dir
from tasks.common.private import close_to_others
from tasks.common.terminal import guard_terminal

RESERVE = 16 << 20  # bytes
NO_MEMORY = (
    b"error: out of memory (out_of_memory): too little is left to say more. End other programs, or raise the limit.\n"
)
INTERRUPTED = 130  # the shells' convention: 128 + SIGINT
GROUP_HELP = "Column that says which images belong together (object, session, track): never divided between splits."
SOURCE_HELP = "Column with the camera or site: a slice, divided between the splits."
KEY_HELP = "Column with your own name of each image (order number, part id), to find it by."
SLICE_HELP = "Column to judge models by: product, shift. Can be repeated."
PICKED_HELP = (
    "How these images were picked: representative (default: a fair sample of what the model will meet), audit, queue "
    "or feedback (for being hard, or by somebody: these are trained on, and measure nothing), unknown."
)

app = App(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Keep an image classifier accurate after it ships: monitor it, retrain it, and roll it back.",
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=upgrade_command.version, help="Print the version.")
    ] = False,
) -> None:
    with suppress(EvergreenError):  # outside of a project
        main = main_checkout(project_root())
        close_to_others(main, state_dir(main))


def main() -> None:
    """Run the command line: a user's error is one message and exit code 1, never a traceback."""
    collect_less_garbage()
    guard_terminal()
    reserve = bytearray(RESERVE)  # given back when memory has run out: to say so takes some
    os.environ |= no_proxy()  # for all libraries and children: their calls to this machine need no proxy
    try:
        app()
    except DamagedFile as damage:
        typer.secho(f"error: {damage}", fg="red", err=True)
        if _repaired(damage.path):
            typer.secho("an undamaged copy is in its place now: run the same command again", fg="yellow", err=True)
        sys.exit(1)
    except EvergreenError as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        sys.exit(1)
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            typer.echo("interrupted: finished steps are kept; run the same command to continue", err=True)
        raise
    except Exception as error:
        del reserve
        if (said := machine_error(error)) is None:
            raise
        typer.secho(f"error: {said}", fg="red", err=True)
        sys.exit(1)


def entry() -> None:
    """The `evergreen` command. It ends without the destructors of native libraries.

    Threads of pyarrow that are still alive then abort the process now and then, after all is done and said. Until then
    it ends as Python does: what waits for threads first (it lets pools of workers go), then the exit functions.
    """
    code: str | int | None = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    except MemoryError:  # while it was being said
        os.write(2, NO_MEMORY)
        os._exit(1)
    if code is None or isinstance(code, int):
        threading._shutdown()
        atexit._run_exitfuncs()
        with suppress(OSError, ValueError):  # a pipe that nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code or 0)
    sys.exit(code)


def _repaired(path: Path) -> bool:
    """Put an undamaged copy of DVC's cache or remote in the place of `path`, a file of data/; False if none is left."""
    from contextlib import closing

    from flows.repo.damage import repair
    from flows.repo.pipeline import open_repo

    try:
        with closing(open_repo(project_root(path.parent))) as repo:
            return repair(repo, path)
    except EvergreenError:
        return False


@app.command()
def init(
    project: Annotated[Path, typer.Argument(help="Folder of the new project; must be empty or absent.")],
    data: Annotated[
        Path, typer.Option(help="Your images: a folder per class, or a CSV, JSONL or Parquet file that lists them.")
    ],
    label: Annotated[str | None, typer.Option(help="Name of the label column, if it cannot be guessed.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Name of the image or path column, if it cannot be guessed.")
    ] = None,
    group: Annotated[str | None, typer.Option(help=GROUP_HELP)] = None,
    camera: Annotated[str | None, typer.Option("--source", help=SOURCE_HELP)] = None,
    key: Annotated[str | None, typer.Option(help=KEY_HELP)] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help=SLICE_HELP)] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="What the paths of your images say, e.g. '{site}/{class}/{group}_{*}': {class}, {group} (never "
            "divided between splits), {source}, {split}, {time}, {name}; {*} is ignored, {**} is any number of "
            "folders, every other name is a slice. Kept in params.yaml for later ingests."
        ),
    ] = None,
    by_time: Annotated[
        bool, typer.Option("--by-time", help="Test on the newest images and train on older ones (data.split.by).")
    ] = False,
    fast: Annotated[
        bool, typer.Option("--fast", help="Do not try settings on a sample of the images, which takes a few minutes.")
    ] = False,
) -> None:
    """Create a project for your images: a git repository with the pipeline's code and a fitting params.yaml."""
    import shlex

    from flows.project.create import init_project
    from tasks.sources.records import Columns

    def progress(line: str) -> None:
        typer.echo(for_terminal(line, SENTENCES), err=True)

    named = [("--label", label), ("--image", image), ("--group", group), ("--source", camera), ("--key", key)]
    named += [("--slice", name) for name in slices or ()]
    template = Path(__file__).resolve().parents[2]
    columns = Columns(label=label, image=image, group=group, source=camera, key=key, slices=tuple(slices or ()))
    created = init_project(project, data, template, columns, layout, None if fast else progress, by_time)
    for note in created.notes:
        typer.echo(for_terminal(note, SENTENCES))
    typer.echo(f"{project} is ready. Check {project / 'params.yaml'}, then run:")
    named = "".join(f" {option} {shlex.quote(name)}" for option, name in named if name)
    source = shlex.quote(str(data.resolve()))
    begin = f"  cd {shlex.quote(str(project))} && evergreen ingest {source}{named}"
    if created.labelled:
        typer.echo(f"{begin} && evergreen retrain")
        return
    typer.echo(f"{begin} && evergreen queue --pick-data 100 --html label.html")
    typer.echo("Name the classes of these images on the page label.html, which saves a file for:")
    typer.echo("  evergreen label FILE && evergreen retrain")


def batch_kind(**asked: bool) -> str:
    """The kind of a batch. Raises EvergreenError when two are asked for."""
    kinds = [name for name, wanted in asked.items() if wanted]
    if len(kinds) > 1:
        raise EvergreenError(
            f"--{kinds[0]} and --{kinds[1]} exclude each other: ingest the images of each on their own"
        )
    return kinds[0] if kinds else "import"


@app.command()
def ingest(
    source: Annotated[
        str | None,
        typer.Argument(help="Folder, manifest or s3://bucket/prefix. Default: the example images in datasets/."),
    ] = None,
    hard: Annotated[
        bool, typer.Option("--hard", help="Add to the hard set, which is never trained or calibrated on.")
    ] = False,
    production: Annotated[bool, typer.Option("--production", help="Mark as production samples.")] = False,
    synthetic: Annotated[
        bool, typer.Option("--synthetic", help="Mark as made by a program: only trained on, a share of each class.")
    ] = False,
    label: Annotated[str | None, typer.Option(help="Name of the label column, if it cannot be guessed.")] = None,
    image: Annotated[
        str | None, typer.Option(help="Name of the image or path column, if it cannot be guessed.")
    ] = None,
    group: Annotated[str | None, typer.Option(help=GROUP_HELP)] = None,
    camera: Annotated[str | None, typer.Option("--source", help=SOURCE_HELP)] = None,
    key: Annotated[str | None, typer.Option(help=KEY_HELP)] = None,
    slices: Annotated[list[str] | None, typer.Option("--slice", help=SLICE_HELP)] = None,
    time_format: Annotated[
        str | None, typer.Option("--time-format", help="How times are written, e.g. '%d.%m.%Y %H:%M'.")
    ] = None,
    annotator: Annotated[str | None, typer.Option(help="Who gave these labels.")] = None,
    picked: Annotated[str | None, typer.Option(help=PICKED_HELP)] = None,
    layout: Annotated[
        str | None,
        typer.Option(
            help="What the paths say, e.g. '{site}/{class}/{group}_{*}'; 'none': class folders and columns alone. "
            "Default: data.layout of params.yaml."
        ),
    ] = None,
    new: Annotated[
        bool, typer.Option("--new", help="Start a new data set even if data.dvc names an existing one.")
    ] = False,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc (and nothing else) to git.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be taken, and write nothing.")] = False,
    report: Annotated[Path | None, typer.Option("--report", help="JSON file to write what was found to.")] = None,
) -> None:
    """Add new images and labels to data/. Known images are skipped; an interrupted command leaves nothing behind."""
    keep_pandas_out()
    from flows.project.ingest import detached, ingest_command
    from tasks.sources.records import Columns

    heard: list[str] = []

    def say(line: str) -> None:
        heard.append(line)
        typer.echo(line)

    given = {"label": label, "image": image, "group": group, "source": camera, "key": key}
    given["slices"] = tuple(slices or ())
    reports = ingest_command(
        project_root(),
        source,
        kind=batch_kind(hard=hard, production=production, synthetic=synthetic),
        commit=commit,
        new=new,
        columns=Columns(**{name: value for name, value in given.items() if value}),
        annotator=annotator,
        picked=picked,
        layout=layout,
        time_format=time_format,
        dry=dry_run,
        say=say,
    )
    if report is not None:
        from tasks.common.files import write_json

        write_json(report, {"understood": heard, "reports": [one.as_json() for one in reports]})
    for one in reports:
        typer.echo(one.sentence())
        for note in one.notes:
            typer.echo(for_terminal(note, SENTENCES))
        for line in one.quarantined[:10]:
            typer.echo(f"  quarantined {for_terminal(str(line))}")
        if len(one.quarantined) > 10 and not dry_run:
            folder = state_dir(project_root()) / "quarantine"
            typer.echo(f"  ... and {len(one.quarantined) - 10} more, listed in {folder}")
    if all(one.offered == len(one.quarantined) for one in reports):
        raise EvergreenError(f"nothing in {source} could be used: see the reasons above")
    if commit and not dry_run and any(one.batch for one in reports) and detached(project_root()):
        typer.echo("note: HEAD is detached, so no branch holds this commit: `git switch -c NAME` creates one", err=True)


@app.command()
def retrain(
    reason: Annotated[str, typer.Option(help="Why; recorded with the release.")] = "started by hand",
    force: Annotated[bool, typer.Option("--force", help="Run even if nothing is new.")] = False,
) -> None:
    """Train, evaluate and judge a new model on the committed data and code, and publish it if it is better.

    Exit codes: 0 promoted, held or nothing new; 1 error; 3 bad data refused; 4 challenger rejected; 5 cancelled.
    """
    from flows.runs.single_flight import run_and_alert

    raise typer.Exit(run_and_alert(project_root(), reason, force, say=typer.echo))


GROUPS = (
    runs,
    distill,
    experiments,
    export,
    batches,
    services,
    doctor,
    versions,
    decisions,
    backup,
    production,
    predictor,
    replay,
    pause,
    labels,
    mistakes,
    active,
    quantise,
    queue,
)
for command in (upgrade_command.upgrade, *(command for group in GROUPS for command in group.COMMANDS)):
    app.command()(command)
app.command("open")(services.open_console)
app.command("ui", hidden=True)(services.open_console)  # its name until the console came
app.add_typer(classes.app, name="classes")
app.add_typer(hard.app, name="hard")
app.add_typer(people.app, name="people")
app.add_typer(feedback.app, name="feedback")
app.add_typer(tokens.app, name="tokens")
app.add_typer(rollout.app, name="rollout")


if __name__ == "__main__":
    entry()
