"""The `evergreen` commands about versions, from `releases` to `connect`.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root
from tasks.common.person import person

COMMANDS: list[Callable] = []

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def releases(
    runs: Annotated[bool, typer.Option("--runs", help="Also list how every run ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """List which version was live when, by whom and why, newest first."""
    from rich.console import Console

    from flows.cli.tables import print_releases, print_runs
    from flows.publishing.history import evergreen_versions, floors_of_versions, open_project, periods

    _, store = open_project(project_root())
    found, retired, ended = periods(store.history()), store.retired(), store.runs() if runs else {}
    if as_json:
        about = {"releases": [period.model_dump(mode="json") for period in found], "retired": retired}
        about |= {"evergreen": evergreen_versions(store, found), "floors": floors_of_versions(store, found)}
        typer.echo(json.dumps(about | ({"runs": ended} if runs else {}), indent=2, ensure_ascii=False))
    elif not found and not ended:
        typer.echo("nothing has been released yet: `evergreen retrain` makes the first version")
    else:
        made_by, floors = evergreen_versions(store, found), floors_of_versions(store, found)
        print_releases(Console(), found, retired, made_by, floors)
        print_runs(Console(), ended)


def diff(
    a: Annotated[
        str | None, typer.Argument(help="Version, or a held run. Default: the one that was live before B.")
    ] = None,
    b: Annotated[str | None, typer.Argument(help="Version, or a held run. Default: the live one.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed from version A to B: data, labels, params, code, metrics, and the likely reason."""
    from rich.console import Console

    from flows.cli.tables import print_diff, print_rejudged
    from flows.versions.diff import diff as compare
    from flows.versions.rejudged import rejudge_versions
    from tasks.labels.owner_names import owner_names

    found = compare(project_root(), a, b)
    now = rejudge_versions(project_root(), [found.a, found.b])
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json") | {"judged_now": now}, indent=2, ensure_ascii=False))
    else:
        names = owner_names(project_root(), [entry["id"] for entry in found.relabelled])
        print_diff(Console(), found, names)
        print_rejudged(Console(), now)


def rollback(
    version: Annotated[str | None, typer.Argument(help="Default: the version before the live one.")] = None,
    why: Annotated[str, typer.Option(help="Why; recorded in the release history.")] = "by hand",
    tombstone: Annotated[
        list[str] | None, typer.Option(help="Batch that is never trained on again; can be given several times.")
    ] = None,
    tombstone_new: Annotated[
        bool, typer.Option("--tombstone-new", help="Tombstone every batch that the older version was made without.")
    ] = False,
    restore: Annotated[
        Path | None, typer.Option(help="New folder to restore the version's model and data into.")
    ] = None,
    model_only: Annotated[
        bool, typer.Option("--model-only", help="Roll back even if the version's data cannot be restored.")
    ] = False,
) -> None:
    """Make an older version live again, after checking every byte of its model and data."""
    from flows.labels.class_reading import names_of_then
    from flows.publishing.history import open_project
    from flows.publishing.rollback import remaining_batches
    from flows.publishing.rollback import rollback as roll_back
    from tasks.releases.bundle import read
    from tasks.releases.store import cached_bundle

    root = project_root()
    store = open_project(root)[1]
    before = store.live()
    chosen = True if tombstone_new else tombstone or False
    live = roll_back(
        root, version, by=person(root), why=why, tombstone=chosen, restore_to=restore, model_only=model_only
    )
    typer.echo(f"{live.version} is live (promotion {live.seq})")
    if said := names_of_then(root, read(cached_bundle(store, live.bundle, root)).get("classes", ())):
        typer.echo(said)
    if restore is not None:
        typer.echo(f"its model and data are in {restore}; the hash of every file was checked")
    for batch in [] if model_only or before is None else remaining_batches(root, live, before):
        typer.echo(
            f"{batch.batch} ({batch.kind}, {batch.rows} images) came after it and is not tombstoned: the next run over "
            f"new inputs trains on it again, unless you run: evergreen tombstone {batch.batch} --why ..."
        )


def adopt(
    path: Annotated[
        Path,
        typer.Argument(help="An .onnx or .safetensors file, or an export of another tool: a folder or its ZIP."),
    ],
    classes: Annotated[
        str | None, typer.Option(help="Class names in the model's order: a file with one per line, or a,b,c.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--resolution", "--size", min=8, max=4096, help="Side of the model's input in pixels."),
    ] = None,
    mean: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Mean of the channels, scaled to 0..1, for normalisation.")
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None, typer.Option(help="Standard deviation of the channels, likewise.")
    ] = None,
    fit: Annotated[str | None, typer.Option(help="squash, crop or pad. Default: images.fit in params.yaml.")] = None,
    bgr: Annotated[
        bool | None, typer.Option("--bgr/--rgb", help="The model reads the channels as blue, green, red.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="timm name of the model whose weights the .safetensors file holds.")
    ] = None,
    features: Annotated[
        str | None, typer.Option(help="ONNX tensor to use as features, if none is found automatically.")
    ] = None,
    why: Annotated[str, typer.Option(help="Why; recorded with the version.")] = "deployed before",
) -> None:
    """Make a model that is already deployed the first version, which the next challenger must beat."""
    from flows.project.deployed_exports import opened_export
    from flows.publishing.adopt import adopt as adopt_model
    from tasks.adopt.build import read_classes
    from tasks.common.params import load_params

    root = project_root()
    said = {"classes": read_classes(classes) if classes else None, "size": size, "mean": mean, "std": std, "fit": fit}
    said |= {"bgr": bgr, "backbone": backbone, "features": features}
    with opened_export(path, said, load_params(root / "params.yaml").images.fit, say=typer.echo) as model:
        live = adopt_model(root, model, by=person(root), why=why, say=typer.echo)
    typer.echo(f"{live.version} is live: {live.why}")


COMMANDS += [releases, diff, rollback, adopt]


def verify(
    version: Annotated[str | None, typer.Argument(help="One version. Default: all that are kept.")] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Read every byte, even of files that have not changed since.")
    ] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Restore objects that have an intact copy elsewhere.")
    ] = False,
) -> None:
    """Check that every object of every kept version exists and is intact. Exit code 1 if not."""
    from flows.versions.verify import verify_command

    raise typer.Exit(verify_command(project_root(), version, deep, repair))


def gc(
    yes: Annotated[bool, typer.Option("--yes", help="Delete. Without it, only show what would be deleted.")] = False,
    keep: Annotated[int | None, typer.Option(help="Retire all versions except this many newest ones.")] = None,
    keep_days: Annotated[
        float | None, typer.Option(help="Retire versions that have not been live for this many days.")
    ] = None,
    grace_hours: Annotated[
        float, typer.Option(help="Keep everything younger than this: a run may still be writing it.")
    ] = 24.0,
    claim: Annotated[
        bool, typer.Option("--claim", help="Only this project uses these places: take what no ledger names as its own.")
    ] = False,
    retire_checkout: Annotated[
        str | None, typer.Option(help="Take over what only this checkout, which is gone for good, needed: its id.")
    ] = None,
) -> None:
    """Delete what no kept version and no other project needs: in release store, DVC's cache and remote, caches."""
    from flows.versions.gc import gc_command

    gc_command(
        project_root(),
        yes=yes,
        keep=keep,
        keep_days=keep_days,
        grace_hours=grace_hours,
        claim_all=claim,
        retire_checkout=retire_checkout,
    )


def forget(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Ids of images (64 hex digits, or the start of one), keys, paths or file names; or a source or "
            "group, to erase all of its images."
        ),
    ],
    why: Annotated[str, typer.Option(help="Why; recorded in the ledger of erasures.")],
    yes: Annotated[bool, typer.Option("--yes", help="Erase. Without it, only show what would be erased.")] = False,
    shared: Annotated[
        bool, typer.Option("--shared", help="Delete objects of DVC also where other projects use them.")
    ] = False,
) -> None:
    """Erase images everywhere and prove it: every place searched, how, and what remains. This cannot be undone."""
    from flows.erasure.command import forget_command

    forget_command(project_root(), what, why, yes, shared)


def connect(
    place: Annotated[
        Path | None,
        typer.Argument(help="Folder with releases/ and remote/. Default: S3, or where origin has them."),
    ] = None,
) -> None:
    """Make a fresh clone ready: find releases and data, fetch what git and DVC lack, say what is missing."""
    from flows.versions.connect import connect_command

    raise typer.Exit(connect_command(project_root(), place))


COMMANDS += [verify, gc, forget, connect]
