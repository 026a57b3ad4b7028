"""The `evergreen` commands about labels: label, correct, exclude, include, undo, why, finish.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []
IMAGE_HELP = "id, start of an id (8 characters), the owner's key, or a file's path."
SHOWN = 5  # images whose label is printed before and after
COMMIT_HELP = "Commit data.dvc (and nothing else) to git."
Later = Annotated[bool, typer.Option("--later", help="Keep it for `evergreen finish`, which takes all in one batch.")]


def label(
    file: Annotated[
        Path,
        typer.Argument(help="Labels as CSV of any spreadsheet, JSON lines or Parquet, or an export of Label Studio."),
    ],
    annotator: Annotated[str | None, typer.Option(help="Who gave labels without an annotator. Default: you.")] = None,
    quota: Annotated[bool, typer.Option(help="Limit the unsolicited labels of each source.")] = True,
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="Accept labels that the model does not know.")
    ] = False,
    reviewer: Annotated[
        bool, typer.Option("--reviewer", help="These are a reviewer's words: they override all others.")
    ] = False,
    ingest: Annotated[
        bool, typer.Option(help="Take labels and images into data/; --no-ingest: only into the production log.")
    ] = True,
    later: Later = False,
    commit: Annotated[bool, typer.Option(help=COMMIT_HELP)] = True,
) -> None:
    """Take people's labels of production samples (into the log and data/) and of the data set.

    A row names its image by id, the start of an id, key or path. It may exclude an image of the data set (a column
    `exclude`, or the label "(exclude)") and say why (`comment`).
    """
    from flows.production.labels import take_labels

    options = {"quota": quota, "new_classes": new_classes, "reviewer": reviewer, "ingest": ingest}
    options |= {"later": later, "commit": commit}
    found = take_labels(project_root(), file, annotator=annotator, **options)
    for line in found.lines():
        typer.echo(_printable(line))
    if found.useless:
        raise typer.Exit(1)


COMMANDS += [label]


def correct(
    image: Annotated[str, typer.Argument(metavar="ID", help=IMAGE_HELP)],
    label: Annotated[list[str], typer.Argument(help="Its right label; several for a data set with several labels.")],
    why: Annotated[str, typer.Option(help="Why; recorded with the label.")] = "",
    new_class: Annotated[bool, typer.Option("--new-class", help="Accept a label that is not a class yet.")] = False,
    later: Later = False,
    commit: Annotated[bool, typer.Option(help=COMMIT_HELP)] = True,
) -> None:
    """Give an image of the data set its right label, as a reviewer: this overrides what others say."""
    from flows.labels.exclude import correct as run
    from flows.labels.exclude import readable
    from flows.labels.samples import data_classes
    from flows.production.labels import known_classes
    from tasks.common.params import load_params

    root = project_root()
    params = load_params(root / "params.yaml")
    known = known_classes(root, params)
    known = None if new_class or not known else [*known, *([] if params.data.classes else data_classes(root))]
    said = readable(label, params.data.task, known)
    (found,) = _named(root, [image])
    _show(root, [found], lambda: run(root, found, said, why, commit, later), later)


def exclude(
    images: Annotated[list[str], typer.Argument(metavar="ID...", help=IMAGE_HELP)],
    why: Annotated[str, typer.Option(help="Why; recorded with the exclusion.")],
    later: Later = False,
    commit: Annotated[bool, typer.Option(help=COMMIT_HELP)] = True,
) -> None:
    """Leave single images out of training, calibration and tests. `evergreen include` takes them back."""
    from flows.labels.exclude import exclude as run

    root = project_root()
    found = _named(root, images)
    _show(root, found, lambda: run(root, found, why, commit, later), later)


def include(
    images: Annotated[list[str], typer.Argument(metavar="ID...", help=IMAGE_HELP)],
    why: Annotated[str, typer.Option(help="Why; recorded.")] = "",
    later: Later = False,
    commit: Annotated[bool, typer.Option(help=COMMIT_HELP)] = True,
) -> None:
    """Take excluded images back, with the label that counts otherwise."""
    from flows.labels.exclude import include as run

    root = project_root()
    found = _named(root, images)
    _show(root, found, lambda: run(root, found, why, commit, later), later)


def undo(
    what: Annotated[str, typer.Argument(help="A batch of labels (l-...), or an image: " + IMAGE_HELP)],
    why: Annotated[str, typer.Option(help="Why; recorded.")] = "",
    commit: Annotated[bool, typer.Option(help=COMMIT_HELP)] = True,
) -> None:
    """Take back a batch of corrections, or the newest word about one image. Undoing an undo restores it."""
    from flows.labels.undo import batch_images, undo_batch, undo_newest
    from tasks.dataset.shards import known_batches

    root = project_root()
    if what in known_batches(root / "data"):
        _show(root, batch_images(root, what), lambda: undo_batch(root, what, why, commit))
    else:
        (found,) = _named(root, [what])
        _show(root, [found], lambda: undo_newest(root, found, why, commit))


def why(image: Annotated[str, typer.Argument(metavar="ID", help=IMAGE_HELP)]) -> None:
    """Explain an image's label: first given, what people said, what counts, and what each version made of it."""
    from flows.labels.why import explain

    root = project_root()
    for line in explain(root, _named(root, [image])[0]):
        typer.echo(_printable(line))


def finish(commit: Annotated[bool, typer.Option(help=COMMIT_HELP)] = True) -> None:
    """Take the answers that people gave so far as one batch. Housekeeping does it after 15 idle minutes."""
    from flows.production.finish import finish as run

    typer.echo(run(project_root(), commit).sentence())


def _show(root: Path, images: list[str], change: Callable, later: bool = False) -> None:
    """Make `change`, and print what it made of the labels of `images`. later: `change` changes none yet."""
    from flows.labels.why import labels_now

    if later:
        typer.echo(change().sentence())
        return
    shown = images[:SHOWN]
    before = labels_now(root, shown)
    typer.echo(change().sentence())
    for image, (label, path) in labels_now(root, shown).items():
        was = before[image][0]
        text = f"{was} -> {label}" if label != was else f"{label}, as before"
        typer.echo(_printable(f"  {image[:12]}  {path}".rstrip() + f": {text}"))
    if len(images) > SHOWN:
        typer.echo(f"  ... and {len(images) - SHOWN} more")


def _named(root: Path, texts: list[str]) -> list[str]:
    """Ids of the data set's images that `texts` name. Raises EvergreenError for a text that names none."""
    from flows.labels.resolve import resolve
    from tasks.common.errors import EvergreenError

    named = resolve(root, texts)
    if named.refused:
        raise EvergreenError("; ".join(named.refused.values()))
    return [named.found[text] for text in dict.fromkeys(texts)]


def _printable(text: str) -> str:
    """Make untrusted `text` safe for the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


COMMANDS += [correct, exclude, include, undo, why, finish]
