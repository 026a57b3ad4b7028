"""The `evergreen` commands about labels that are not there yet: curve.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []


def curve(
    labels: Annotated[int | None, typer.Option(min=1, help="How many more labels. Default: review.budget.")] = None,
) -> None:
    """Say what more labels would bring, in all and for each class, from a learning curve of those there are."""
    from tasks.active.outlook import lines, training_curve
    from tasks.common.params import load_params

    root = project_root()
    params = load_params(root / "params.yaml")
    found, classes = training_curve(root, params)
    for line in lines(found, classes, labels or params.review.budget, params.review.min_gain):
        typer.echo(line)


COMMANDS += [curve]
