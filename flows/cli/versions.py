"""The `evergreen` commands about versions: releases, diff, rollback, approval, verify, gc, forget.

Only light imports at the top: every `evergreen` command loads this module.
"""

import getpass
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []

AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]


def releases(
    runs: Annotated[bool, typer.Option("--runs", help="How every run ended too, held and rejected ones.")] = False,
    as_json: AsJson = False,
) -> None:
    """What was live when, by whom and why, newest first."""
    from rich.console import Console

    from flows.cli.tables import print_releases, print_runs
    from flows.publishing.history import evergreen_versions, open_project, periods

    _, store = open_project(project_root())
    found, retired, ended = periods(store.history()), store.retired(), store.runs() if runs else {}
    if as_json:
        about = {"releases": [period.model_dump(mode="json") for period in found], "retired": retired}
        about["evergreen"] = evergreen_versions(store, found)
        typer.echo(json.dumps(about | ({"runs": ended} if runs else {}), indent=2, ensure_ascii=False))
    elif not found and not ended:
        typer.echo("nothing has been released yet: `evergreen retrain` makes the first version")
    else:
        print_releases(Console(), found, retired, evergreen_versions(store, found))
        print_runs(Console(), ended)


def diff(
    a: Annotated[str | None, typer.Argument(help="Version; default: the one live before B.")] = None,
    b: Annotated[str | None, typer.Argument(help="Version; default: the live one.")] = None,
    as_json: AsJson = False,
) -> None:
    """What changed from version A to version B: data, labels, params, code, metrics, and the likely why."""
    from rich.console import Console

    from flows.cli.tables import print_diff
    from flows.versions.diff import diff as compare

    found = compare(project_root(), a, b)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=2, ensure_ascii=False))
    else:
        print_diff(Console(), found)


def rollback(
    version: Annotated[str | None, typer.Argument(help="Default: the version before the live one.")] = None,
    why: Annotated[str, typer.Option(help="Kept with the pointer.")] = "by hand",
    tombstone: Annotated[
        list[str] | None, typer.Option(help="A batch never to be trained on again; repeatable.")
    ] = None,
    tombstone_new: Annotated[
        bool, typer.Option("--tombstone-new", help="Tombstone every batch the target was made without.")
    ] = False,
    restore: Annotated[Path | None, typer.Option(help="New folder for the target's bundle and data.")] = None,
    model_only: Annotated[
        bool, typer.Option("--model-only", help="Though the target's data cannot be restored.")
    ] = False,
) -> None:
    """Make an old version live again: a new pointer forward, after its model and data have been hashed."""
    from flows.publishing.history import open_project
    from flows.publishing.rollback import remaining_batches
    from flows.publishing.rollback import rollback as roll_back

    root = project_root()
    before = open_project(root)[1].live()
    chosen = True if tombstone_new else tombstone or False
    live = roll_back(
        root, version, by=getpass.getuser(), why=why, tombstone=chosen, restore_to=restore, model_only=model_only
    )
    typer.echo(f"{live.version} is live (promotion {live.seq})")
    if restore is not None:
        typer.echo(f"its model and data are in {restore}, every file hashed")
    for batch in [] if model_only or before is None else remaining_batches(root, live, before):
        typer.echo(
            f"{batch.batch} ({batch.kind}, {batch.rows} images) came after it and is not tombstoned: the next run over "
            f"new inputs trains on it again, unless: evergreen tombstone {batch.batch} --why ..."
        )


def approve(
    run: Annotated[str, typer.Argument(help="Run id; `evergreen releases --runs` lists them.")],
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "",
) -> None:
    """Publish a held run, if the gate does not reject it against what is live now."""
    from flows.publishing.held import approve as publish_held

    live = publish_held(project_root(), run, by=getpass.getuser(), why=why)
    typer.echo(f"{live.version} is live (promotion {live.seq}): {live.why}")


def promote(
    run: Annotated[str, typer.Argument(help="Run id; `evergreen releases --runs` lists them.")],
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "",
    override: Annotated[bool, typer.Option("--override", help="Against the gate's word.")] = False,
) -> None:
    """Publish a held or rejected run against the gate's word: who and why are kept with the version."""
    from flows.publishing.held import override as publish_anyway
    from tasks.common.errors import EvergreenError

    if not override:
        raise EvergreenError(
            f"a run that passes the gate is promoted by itself. Approve a held one with `evergreen approve {run}`, or "
            f'go against the gate with `evergreen promote {run} --override --why "..."`'
        )
    live = publish_anyway(project_root(), run, by=getpass.getuser(), why=why)
    typer.echo(f"{live.version} is live (promotion {live.seq}): {live.why}")


def adopt(
    path: Annotated[Path, typer.Argument(help="The model: an .onnx file, or .safetensors with --backbone.")],
    classes: Annotated[str, typer.Option(help="File of class names in the model's order, one a line; or a,b,c.")],
    size: Annotated[int, typer.Option(min=8, max=4096, help="Side of the model's input in pixels.")],
    mean: Annotated[tuple[float, float, float], typer.Option(help="Of channels scaled to 0..1.")] = (0.5, 0.5, 0.5),
    std: Annotated[tuple[float, float, float], typer.Option(help="Of channels scaled to 0..1.")] = (0.5, 0.5, 0.5),
    fit: Annotated[str | None, typer.Option(help="squash, crop or pad; default: images.fit of params.yaml.")] = None,
    backbone: Annotated[
        str | None, typer.Option(help="The timm model whose weights a .safetensors file holds.")
    ] = None,
    features: Annotated[str | None, typer.Option(help="ONNX tensor to use as features, where none is found.")] = None,
    why: Annotated[str, typer.Option(help="Kept with the version.")] = "deployed before",
) -> None:
    """Make a model that is deployed already the first version; the next challenger must beat it."""
    from flows.publishing.adopt import adopt as adopt_model
    from tasks.adopt.build import read_classes
    from tasks.adopt.deployed import Deployed
    from tasks.common.params import load_params

    root = project_root()
    model = Deployed(
        path=path,
        classes=read_classes(classes),
        size=size,
        mean=mean,
        std=std,
        fit=fit or load_params(root / "params.yaml").images.fit,
        backbone=backbone,
        features=features,
    )
    live = adopt_model(root, model, by=getpass.getuser(), why=why, say=typer.echo)
    typer.echo(f"{live.version} is live: {live.why}")


COMMANDS += [releases, diff, rollback, approve, promote, adopt]


def verify(
    version: Annotated[str | None, typer.Argument(help="One version; default: all that are kept.")] = None,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte, also of files unchanged since.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Put back what has a whole copy elsewhere.")] = False,
) -> None:
    """Is every object of every kept version there, and right? Exit code 1 when anything is missing or damaged."""
    from flows.versions.verify import verify_command

    raise typer.Exit(verify_command(project_root(), version, deep, repair))


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without, only say what would go.")] = False,
    keep: Annotated[int | None, typer.Option(help="Retire all versions but the newest so many.")] = None,
    keep_days: Annotated[float | None, typer.Option(help="Retire versions not live for so many days.")] = None,
    grace_hours: Annotated[float, typer.Option(help="Keep whatever is younger: it may be in the making.")] = 24.0,
) -> None:
    """Remove what no kept version needs, from the release store, DVC's cache and remote, and the caches."""
    from flows.versions.gc import gc_command

    gc_command(project_root(), yes, keep, keep_days, grace_hours)


def forget(
    what: Annotated[str, typer.Argument(help="An image's id (64 hex digits), or a source: all of its images.")],
    why: Annotated[str, typer.Option(help="Kept in the ledger.")],
    yes: Annotated[bool, typer.Option("--yes", help="Erase; without, only say what would go.")] = False,
) -> None:
    """Erase images wherever their bytes or pixels lie; says which versions lose data. Cannot be undone."""
    from flows.versions.forget import forget_command

    forget_command(project_root(), what, why, yes)


COMMANDS += [verify, gc, forget]
