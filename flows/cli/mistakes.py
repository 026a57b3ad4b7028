"""The `evergreen` commands about mistakes: what taught them, and those of production in a month.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable, Sequence
from typing import Annotated

import typer

from flows.cli.text import SENTENCES, for_terminal
from tasks.common.paths import project_root

COMMANDS: list[Callable] = []
SHOWN = 10  # mistakes printed
NAMED = 3  # training images printed for each


def mistakes(
    run: Annotated[str | None, typer.Argument(help="Run id. Default: the newest run.")] = None,
    most: Annotated[int, typer.Option(min=1, max=500, help="How many training labels to suggest.")] = 9,
    ask: Annotated[
        bool, typer.Option("--ask", help="Put the suggested images into the queue under Label: people decide.")
    ] = False,
) -> None:
    """List what a run's model got wrong, the training images that taught it, and which labels to look at.

    The suggestion is chosen by the calibration images; the head is fitted again to say what it brings on the test
    images. Nothing is relabelled by this.
    """
    from flows.labels.mistakes.of_run import ask_about, look_for_mistakes

    root = project_root()
    found = look_for_mistakes(root, run, most, typer.echo)
    for where, (images, wrong) in found.counts.items():
        typer.echo(f"{where}: {wrong} of {images} wrong")
    for one in found.mistakes[:SHOWN]:
        said = f"{one.id[:12]}  {one.where}: {_text(one.truth)}, answered {_text(one.answer)} ({one.confidence:.0%})"
        typer.echo(for_terminal(said))
        if not one.repeated:
            typer.echo("  the classifier that was taught again gets it right: what follows explains little")
        for teacher in one.taught[:NAMED]:
            who = f", by {', '.join(teacher.annotators)}" if teacher.annotators else ""
            line = f"  taught by {teacher.id[:12]}: {_text(teacher.label)}, batch {teacher.batch}{who}"
            typer.echo(for_terminal(line))
    if (more := len(found.mistakes) + found.left - SHOWN) > 0:
        typer.echo(f"... and {more} more: the console's page Releases lists them")
    for fix in found.fixes:
        do = f"{_text(fix.to)}?" if fix.to is not None else "leave it out, or is its label right?"
        typer.echo(for_terminal(f"look at {fix.id[:12]}  {_text(fix.label)} -> {do}  batch {fix.batch}"))
    typer.echo(for_terminal(found.advice(), SENTENCES))
    if ask:
        count = ask_about(root, found)
        wait = f"{count} image{'s wait' if count != 1 else ' waits'}"
        asked = f"{wait} for a person under Label, in the queue of label issues"
        typer.echo(asked if count or not found.fixes else "people were asked about all of them before")
    elif found.fixes:
        typer.echo("people decide: `evergreen mistakes --ask` puts these images into the queue of label issues")


def errors(
    month: Annotated[
        str | None, typer.Option(help="Which month, e.g. 2026-11. Default: the last that is over.")
    ] = None,
    most: Annotated[int, typer.Option(min=0, max=500, help="How many wrong answers to print.")] = 10,
) -> None:
    """Say what production got wrong in a month, per source and class, from people's labels."""
    import functools

    from flows.console.index.opinions import ood_threshold
    from flows.production.errors import default_month, error_review
    from flows.publishing.history import open_project
    from monitoring.console_link import console_link
    from monitoring.live.estimate import sentence
    from monitoring.log.production_log import open_log

    root = project_root()
    params, releases = open_project(root)
    log = open_log(root, params)
    month = month or default_month(log)
    found = error_review(root, params, log, month, functools.cache(functools.partial(ood_threshold, releases)))
    if found is None:
        typer.echo(f"{month}: no answer has a label; `evergreen queue` and the console's page Label ask for them")
        return
    random = f"{sentence(found.accuracy)} {found.change()}" if found.accuracy else "no label was asked for at random"
    typer.echo(f"{month}: {found.answers} answers, {found.labels} with a label; {random}".rstrip())
    typer.echo(
        f"{found.errors_known} known errors: {found.confident} confident, {found.unfamiliar} out of distribution, "
        f"{found.in_data} in the data set since ({found.learnt} trained on by the live version)"
    )
    for title, lines in (("source", found.sources), ("class", found.classes)):
        for line in lines[:5]:
            share = f"{line.wrong.value:.0%} wrong" if line.wrong else "wrong"
            if line.wrong and line.wrong.low is not None:
                share += f" ({line.wrong.low:.0%} to {line.wrong.high:.0%})"
            said = f"{title} {line.name or 'unknown'}: {share}, {line.errors} errors of {line.labels} labels"
            typer.echo(for_terminal(f"  {said}{f', {line.change} than the month before' if line.change else ''}"))
    for one in found.errors[:most]:
        sure = "" if one.confidence is None else f" ({one.confidence:.0%})"
        typer.echo(for_terminal(f"{one.id[:12]}  {_text(one.label)}, answered {_text(one.prediction)}{sure}"))
    typer.echo(f"with pictures: {console_link(root, f'/production/errors?month={month}')}")


def _text(label: str | Sequence[str] | None) -> str:
    return label if isinstance(label, str) else " + ".join(label or []) or "none of the classes"


COMMANDS += [mistakes, errors]
