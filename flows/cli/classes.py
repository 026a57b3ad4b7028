"""The `evergreen classes` commands: list, define, rename, merge, split, add, retire, group, undo.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import App
from tasks.common.paths import project_root
from tasks.common.person import person
from tasks.common.text import one_line

app = App(help="List the classes and their history, and change them.")

Why = Annotated[str, typer.Option(help="Why; recorded with the change.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
Commit = Annotated[bool, typer.Option(help="Commit data.dvc (and data.classes, if it is set) to git.")]


@app.callback(invoke_without_command=True)
def classes(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the classes with their images, and every change of them."""
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console

    from flows.cli.tables import print_changes, print_classes
    from flows.labels.class_list import class_rows

    rows, changes = class_rows(project_root())
    if as_json:
        about = {"classes": [row.__dict__ for row in rows]}
        about["changes"] = [{"id": change.id, **change.model_dump(mode="json")} for change in changes]
        typer.echo(json.dumps(about, indent=2, ensure_ascii=False))
    else:
        print_classes(Console(), rows)
        print_changes(Console(), changes)


@app.command()
def rename(old: str, new: str, why: Why = "", dry_run: DryRun = False, commit: Commit = True) -> None:
    """Give the class OLD the name NEW."""
    _change("rename", [old], [new], why, dry_run, commit)


@app.command()
def merge(
    old: list[str],
    into: Annotated[str, typer.Option(help="Name of the merged class; may be one of them.")],
    why: Why = "",
    dry_run: DryRun = False,
    commit: Commit = True,
) -> None:
    """Make one class of several."""
    _change("merge", old, [into], why, dry_run, commit)


@app.command()
def split(
    name: str,
    into: Annotated[list[str], typer.Option(help="Name of a part; give it twice or more.")],
    queue: Annotated[Path | None, typer.Option(help="CSV to write for the images that then wait.")] = None,
    why: Why = "",
    dry_run: DryRun = False,
    commit: Commit = True,
) -> None:
    """Divide the class NAME into parts. It stays whole until people gave each part enough images."""
    _change("split", [name], into, why, dry_run, commit)
    if not dry_run:
        _queue(name, queue)


@app.command()
def add(name: str, why: Why = "", dry_run: DryRun = False, commit: Commit = True) -> None:
    """Accept NAME as a label. It becomes a class of the model once enough images have it."""
    _change("add", [], [name], why, dry_run, commit)


@app.command()
def retire(name: str, why: Why = "", dry_run: DryRun = False, commit: Commit = True) -> None:
    """Stop answering the class NAME: its images are left out."""
    _change("retire", [name], [], why, dry_run, commit)


@app.command()
def group(parent: str, children: list[str], why: Why = "", dry_run: DryRun = False, commit: Commit = True) -> None:
    """Let PARENT be the coarse answer where the model is unsure among CHILDREN."""
    _change("group", children, [parent], why, dry_run, commit)


@app.command()
def undo(change: str, why: Why = "", dry_run: DryRun = False, commit: Commit = True) -> None:
    """Take back the change with this id; an undo can be undone, too."""
    _change("undo", [], [], why, dry_run, commit, change)


@app.command()
def queue(
    name: Annotated[str | None, typer.Argument(help="Class that was split. Default: the last one.")] = None,
    to: Annotated[
        Path | None,
        typer.Option(help="CSV to write, with the images next to it. Default: .evergreen/label-issues/split.csv."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write a page on which to label.")] = None,
    label_studio: Annotated[
        Path | None,
        typer.Option("--label-studio", help="Also write Label Studio's tasks (.json, .xml)."),
    ] = None,
) -> None:
    """Write the images of a split class that wait for a part, the likeliest assignment first."""
    _queue(name, to, html, label_studio)


def _change(kind: str, old: list[str], new: list[str], why: str, dry_run: bool, commit: bool, undoes=None) -> None:
    from flows.labels.classes import plan_change, record_change

    root = project_root()
    plan = plan_change(root, kind, old, new, why=why, by=person(root), undoes=undoes)
    for line in plan.lines():
        typer.echo(one_line(line, 2000))
    if dry_run:
        typer.echo("nothing was changed (--dry-run)")
        return
    record_change(root, plan, commit)
    typer.echo(f"recorded as change {plan.change.id}; `evergreen classes undo {plan.change.id}` takes it back")


def _queue(name: str | None, to: Path | None, html: Path | None = None, label_studio: Path | None = None) -> None:
    from flows.labels.class_queue import waiting_images, write_forms, write_queue
    from flows.repo.label_issues import SPLIT_QUEUE
    from monitoring.review.forms import Forms, next_steps

    root, forms = project_root(), Forms(None, label_studio, html)
    waiting = waiting_images(root, name)
    have = ", ".join(f"{count:,} {part!r}" for part, count in waiting.labelled.items())
    file = to or root / SPLIT_QUEUE
    write_queue(root, waiting, file)
    write_forms(root, waiting, forms)
    typer.echo(
        one_line(f"{len(waiting.rows):,} images of {waiting.name!r} wait in {file}; labelled so far: {have}", 500)
    )
    typer.echo("fill in the column label, then `evergreen label FILE`; `evergreen classes queue` ranks the rest again")
    for line in next_steps(forms, len(waiting.rows), "") if forms.files else ():
        typer.echo(one_line(line, 500).replace("next: ", "or ", 1))


@app.command()
def define(
    name: Annotated[str, typer.Argument(metavar="CLASS", help="The class, as it is called today.")],
    text: Annotated[str | None, typer.Option(help="What it means: when an image belongs to it, and when not.")] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="ID", help="A reference image: id, key or path; up to three times."),
    ] = None,
    commit: Annotated[bool, typer.Option(help="Commit data.dvc (and nothing else) to git.")] = True,
) -> None:
    """Say what a class means, with reference images: shown where people label. Without options, show it."""
    from flows.labels.define import define as run
    from flows.labels.define import meanings
    from flows.labels.samples import data_classes
    from flows.production.queue_export import label_classes
    from tasks.common.params import load_params

    root = project_root()
    if text is None and images is None:
        if (found := meanings(root / "data").get(name)) is None:
            typer.echo(f"{one_line(name)} has no definition yet: `--text` and `--image` give one")
        else:
            typer.echo(f"{one_line(name)}: {one_line(found.text, 2000)}")
            typer.echo(f"images: {', '.join(found.images) or 'none'}; by {one_line(found.by)}, {found.at}")
        return
    known = [*label_classes(root, load_params(root / "params.yaml")), *data_classes(root)]
    made = run(root, name, list(dict.fromkeys(known)), text=text, images=images, commit=commit)
    typer.echo(f"{one_line(name)} is defined" if made else "nothing new: it is defined so already")
