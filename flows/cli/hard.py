"""The `evergreen hard` commands: add, refresh, remove, never-again, undo, history, looks.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.app import App
from flows.cli.text import SENTENCES, for_terminal
from tasks.common.paths import project_root

app = App(help="The hard set: images that no new model may lose. Show it and change it.")
SHOWN = 40  # images listed in the terminal

Why = Annotated[str, typer.Option(help="Why; recorded with the change.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]
Commit = Annotated[bool, typer.Option(help="Commit data.dvc to git.")]
Since = Annotated[datetime | None, typer.Option(help="Only answers from this day on (UTC).", formats=["%Y-%m-%d"])]
Until = Annotated[datetime | None, typer.Option(help="Only answers before this day (UTC).", formats=["%Y-%m-%d"])]
PerClass = Annotated[int, typer.Option(min=0, help="At most so many images of a class in the set; 0: no limit.")]
PerSource = Annotated[int, typer.Option(min=0, help="At most so many images of a source in the set; 0: no limit.")]


@app.callback(invoke_without_command=True)
def hard(context: typer.Context, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the hard set: its version, images by class, and how often it was asked."""
    if context.invoked_subcommand is not None:
        return
    from flows.hard_set.content import read_hard_set
    from flows.hard_set.looks import set_looks
    from tasks.common.text import join_names

    root = project_root()
    now, looks = read_hard_set(root), set_looks(root)
    if as_json:
        about = {"version": now.version, "classes": dict(now.classes()), "never_again": sorted(now.never)}
        about |= {"looks": [one.__dict__ for one in looks]}
        about |= {"images": [one.__dict__ | {"at": one.at and one.at.isoformat()} for one in now.members]}
        typer.echo(json.dumps(about, indent=2, ensure_ascii=False))
        return
    classes = join_names([f"{name} {count:,}" for name, count in now.classes().most_common()], 20)
    _say(f"{now.version or 'the hard set is empty'}: {len(now.asked):,} images{f' ({classes})' if classes else ''}")
    if without := len(now.members) - len(now.asked):
        _say(f"{without:,} more have no label that counts, so no model is asked about them")
    marked = f"{len(now.never):,} image{'s' * (len(now.never) != 1)}"
    _say(f"never again: {marked}; the gate rejects every model that gets one wrong")
    for one in looks:
        _say(one.sentence())
    for one in now.members[:SHOWN]:
        label = one.label if isinstance(one.label, str | None) else " + ".join(one.label)
        who = f"{one.origin} by {one.by}, {one.at:%Y-%m-%d}: {one.why}" if one.by else f"ingested, {one.batch}"
        mark = "  never again" if one.never else ""
        _say(f"  {one.id[:12]}  {label or 'no label'}  {one.key or one.path or ''}  {who}{mark}")
    if len(now.members) > SHOWN:
        _say(f"  ... and {len(now.members) - SHOWN:,} more (--json shows all)")


@app.command()
def add(
    images: Annotated[list[str] | None, typer.Argument(help="Ids, starts of ids, keys or paths.")] = None,
    mistakes: Annotated[bool, typer.Option("--mistakes", help="Answers of production that were wrong.")] = False,
    window: Annotated[str | None, typer.Option(help="Only mistakes of this window, as the console names it.")] = None,
    week: Annotated[str | None, typer.Option(help="Only mistakes of this week, 2026-W47.")] = None,
    queue: Annotated[bool, typer.Option("--queue", help="Labelled images that the review queue picked.")] = False,
    since: Since = None,
    until: Until = None,
    per_class: PerClass = 0,
    per_source: PerSource = 0,
    why: Why = "",
    dry_run: DryRun = False,
    commit: Commit = True,
) -> None:
    """Put images into the hard set: they leave training, and every later model is judged on them."""
    from flows.hard_set.candidates import candidates_of, from_queue, production_mistakes
    from flows.hard_set.period import period_of
    from flows.hard_set.plan import Limits
    from tasks.common.errors import EvergreenError

    root = project_root()
    start, end = period_of(window, week, since, until)
    mistakes = mistakes or start is not None or end is not None
    if sum([bool(images), mistakes, queue]) != 1:
        raise EvergreenError("say which images: their names, --mistakes (of --week, --window or --since), or --queue")
    if mistakes:
        found, origin = production_mistakes(root, start, end), "production"
    elif queue:
        found, origin = from_queue(root), "queue"
    else:
        found, origin = candidates_of(root, _named(root, images)), "chosen"
    _change(root, found, Limits(per_class, per_source, near=not images), origin, why, dry_run, commit)


@app.command()
def refresh(
    per_class: PerClass = 50,
    per_source: PerSource = 50,
    why: Why = "new mistakes of production",
    dry_run: DryRun = False,
    commit: Commit = True,
) -> None:
    """Add the mistakes of production since the last refresh, within quotas and without near-duplicates."""
    from flows.hard_set.candidates import production_mistakes
    from flows.hard_set.plan import Limits

    root = project_root()
    found = production_mistakes(root)
    _change(root, found, Limits(per_class, per_source, near=True), "production", why, dry_run, commit)


@app.command()
def remove(images: list[str], why: Why = "", dry_run: DryRun = False, commit: Commit = True) -> None:
    """Take images out of the hard set. Training images go back to training; others are in no split."""
    from flows.hard_set.plan import plan_remove

    root = project_root()
    _do(root, plan_remove(root, _named(root, images)), why, "chosen", dry_run, commit)


@app.command("never-again")
def never_again(
    images: list[str],
    undo: Annotated[bool, typer.Option("--undo", help="Take the mark back.")] = False,
    why: Why = "",
    dry_run: DryRun = False,
    commit: Commit = True,
) -> None:
    """Mark images of the hard set or the test split: no model that gets one wrong is released."""
    from flows.hard_set.candidates import judged_images
    from flows.hard_set.plan import plan_mark

    root = project_root()
    ids = _named(root, images)
    _do(root, plan_mark(root, ids, not undo, judged_images(root, ids)), why, "chosen", dry_run, commit)


@app.command()
def undo(
    change: Annotated[str | None, typer.Argument(help="h-..., as `evergreen hard history` lists it.")] = None,
    why: Why = "",
    commit: Commit = True,
) -> None:
    """Take a change of the hard set back; without a name the newest one."""
    from flows.hard_set.take import undo_change

    _say(undo_change(project_root(), why, change, commit).sentence())


@app.command()
def history(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the versions of the hard set: when, who, why, how many."""
    from flows.hard_set.history import set_history

    found = set_history(project_root())
    if as_json:
        rows = [one.__dict__ | {"at": one.at and one.at.isoformat()} for one in found]
        typer.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    for one in reversed(found[-SHOWN:]):
        who = f"{one.at:%Y-%m-%d %H:%M} UTC, by {one.by}: {one.why}" if one.by else "an ingest"
        _say(f"{one.version or 'empty'}  {one.images:,} images  {one.sentence()}  {one.batch}  {who}")
    if not found:
        _say("there was never an image in the hard set")


@app.command()
def looks() -> None:
    """List every judgement of a challenger on the hard set and the test split, newest first."""
    from flows.hard_set.looks import ledger

    found = ledger(project_root())
    for look in found[:SHOWN]:
        sets = ", ".join(f"{one.version} of {one.images:,}" for one in look.sets.values())
        against = f"against {look.champion}" if look.champion else "a first model"
        _say(f"{look.at:%Y-%m-%d %H:%M} UTC  {look.run}  {look.how} by {look.by}, {against}: {sets}")
    if not found:
        _say("no challenger was judged yet")


def _change(root: Path, found: list, limits, origin: str, why: str, dry_run: bool, commit: bool) -> None:
    from flows.hard_set.candidates import training_counts
    from flows.hard_set.plan import plan_add
    from flows.publishing.history import open_project

    live = open_project(root)[1].live()
    if origin != "chosen":  # what people took out stays out
        from tasks.dataset.hard_set import membership

        gone = membership(root / "data").removed
        found = [one for one in found if one.id not in gone]
    plan = plan_add(root, found, limits, counts=training_counts(root), live=live)
    _do(root, plan, why, origin, dry_run, commit)


def _do(root: Path, plan, why: str, origin: str, dry_run: bool, commit: bool) -> None:
    from flows.hard_set.take import take_plan

    for line in plan.lines():
        _say(line)
    if not dry_run:
        _say(take_plan(root, plan, why, origin=origin, commit=commit).sentence())


def _named(root: Path, texts: list[str]) -> list[str]:
    from flows.labels.resolve import resolve
    from tasks.common.errors import EvergreenError

    named = resolve(root, texts)
    if named.refused:
        raise EvergreenError("; ".join(named.refused.values()))
    return [named.found[text] for text in dict.fromkeys(texts)]


def _say(line: str) -> None:
    typer.echo(for_terminal(line, SENTENCES))
