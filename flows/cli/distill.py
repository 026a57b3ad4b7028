"""The `evergreen distill` command."""

from collections.abc import Callable
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []
TEACHER_HELP = (
    "Who teaches: live, a version, a folder with a bundle, or a timm model whose pretrained features get a classifier. "
    "Several teach their mean."
)
STUDENT_HELP = "Backbone of the student: a preset (edge, balanced, accurate, largest) or a timm model."
TEMPERATURE_HELP = "Softens the teachers' answers (train_backbone.distill.temperature)."
WEIGHT_HELP = "Share of the teachers' answers in the loss; the labels have the rest."
FEATURES_HELP = "Weight of seeing the same images as alike."
ATTENTION_HELP = "Weight of looking at the same places."


def distill(
    teachers: Annotated[list[str], typer.Argument(help=TEACHER_HELP)],
    student: Annotated[str, typer.Option("--student", help=STUDENT_HELP)] = "edge",
    temperature: Annotated[float | None, typer.Option("--temperature", help=TEMPERATURE_HELP)] = None,
    weight: Annotated[float | None, typer.Option("--weight", help=WEIGHT_HELP)] = None,
    features: Annotated[float | None, typer.Option("--features", help=FEATURES_HELP)] = None,
    attention: Annotated[float | None, typer.Option("--attention", help=ATTENTION_HELP)] = None,
    alone: Annotated[bool, typer.Option(help="Train the student without teachers, too, to compare.")] = True,
    apply: Annotated[bool, typer.Option("--apply", help="Write the better student into params.yaml.")] = False,
) -> None:
    """Train a small student on the answers of teachers, and publish nothing: two rows in the table of experiments."""
    from flows.cli.experiments import print_rows
    from flows.experiments import launch
    from flows.experiments.distill import better, pinned_teacher, planned
    from flows.publishing.history import open_project
    from tasks.common.errors import EvergreenError

    root = project_root()
    setup, (_, releases) = launch.prepare(root), open_project(root)
    pinned = [pinned_teacher(root, releases, name) for name in teachers]
    for name, digest in zip(teachers, pinned, strict=True):
        typer.echo(f"teacher: {name}" + (f" is {digest}" if digest != name else ""))
    given = {"temperature": temperature, "weight": weight, "features": features, "attention": attention}
    changes = planned(student, pinned, {name: value for name, value in given.items() if value is not None}, alone)
    launch.check_settings(setup, changes)
    made = launch.make_all(setup, changes, say=typer.echo)
    print_rows(made.rows)
    if made.failed:
        raise EvergreenError("; ".join(f"{one} failed: {why}" for one, why in made.failed))
    choice = better(made.rows)
    typer.echo(choice.sentence)
    if apply and choice.row:
        for line in launch.apply(root, choice.row):
            typer.echo(f"params.yaml: {line}")
        typer.echo("commit it, then `evergreen retrain` judges and publishes the student: its training is in the cache")


COMMANDS += [distill]
