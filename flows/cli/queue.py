"""The `evergreen` commands about label work: queue, annotators.

Every `evergreen` command loads this module, so it imports only light modules at the top.
"""

from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from tasks.common.paths import project_root

COMMANDS: list[Callable] = []
SHOWN = 20  # lines of a list in the terminal


def queue(
    pick: Annotated[
        float | None, typer.Option(min=0, help="First pick the most informative samples of this many latest hours.")
    ] = None,
    pick_data: Annotated[
        int | None,
        typer.Option("--pick-data", min=1, help="First pick so many images of the data set that have no label."),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="With --pick-data: suggest labels from class names by this CLIP model, a folder or OWNER/NAME on the "
            "Hugging Face hub.",
        ),
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(help="With --clip: a sentence for each class, {} is its name; may be given again."),
    ] = None,
    issues: Annotated[
        bool, typer.Option("--issues", help="The data set's label issues, of all splits, instead of production.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option("--csv", help="Write a table to fill in, with the images in a folder next to it.")
    ] = None,
    label_studio: Annotated[
        Path | None, typer.Option("--label-studio", help="Write Label Studio's tasks (.json) and interface (.xml).")
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page on which to label in any browser.")] = None,
    assign: Annotated[
        str | None, typer.Option("--assign", metavar="NAME", help="Assign what nobody has yet to this person.")
    ] = None,
    due: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Until when; `evergreen status` says what is overdue.")
    ] = None,
    person: Annotated[
        str | None, typer.Option("--for", metavar="NAME", help="Only what was assigned to this person.")
    ] = None,
    most: Annotated[int | None, typer.Option(min=1, help="At most so many, the most urgent first.")] = None,
) -> None:
    """List the samples that wait for a label, or write them to a file for people to label."""
    from flows.labels.data_queue import DataQueue, pick_and_forecast
    from flows.labels.people import people_err
    from flows.production.queue_export import Share, export_issues, export_queue
    from monitoring.review.forms import Forms, next_steps
    from tasks.common.errors import EvergreenError
    from tasks.common.params import load_params

    if (clip is not None and pick_data is None) or (prompt and clip is None):
        raise EvergreenError("--clip MODEL goes with --pick-data NUMBER, and --prompt with --clip")
    root, forms = project_root(), Forms(csv, label_studio, html)
    share = Share(assign, due.date() if due else None, person, most)
    if issues:
        if pick is not None or pick_data is not None:
            raise EvergreenError("--pick and --pick-data choose images without a label: leave them out with --issues")
        found = export_issues(root, forms, share)
        _show_issues(found, forms.files)
        steps = next_steps(forms, len(found), "evergreen queue --issues", reviewer=True)
        typer.echo(f"how often people err: {people_err(root).sentence()}")
    else:
        files = {"csv_file": csv, "label_studio_file": label_studio, "html": html}
        params = load_params(root / "params.yaml")
        if pick_data is not None:
            chosen, gain = pick_and_forecast(root, params, pick_data, clip, prompt or ())
            typer.echo(f"{len(chosen)} images of the data set picked")
            if clip is not None:
                suggested = sum(one.prediction is not None for one in chosen)
                typer.echo(f"  {suggested} with a label that CLIP suggests; each counts only after a person checked it")
            for line in gain:
                typer.echo(f"  {line}")
        waiting, picked = export_queue(root, pick_hours=pick, share=share, **files)
        if pick is not None:
            typer.echo(f"{len(picked)} samples picked")
        typer.echo(f"{len(waiting)} samples wait for a label")
        _show(forms.files, [_production_line(entry) for entry in waiting])
        if data := DataQueue(root, params).entries:
            typer.echo(f"{len(data)} images of the data set wait for a label")
            lines = [f"{one.id[:12]}  {one.why:<10}{_answer(one)}  {one.detail}  {one.source or ''}" for one in data]
            _show([], [] if forms.files else lines)
        steps = next_steps(forms, len(waiting) + len(data), "evergreen queue")
        if not (waiting or data or forms.files):
            steps = ["next: `evergreen queue --pick 24` picks answers of the last day, `--issues` shows the data set's"]
    for line in steps:
        typer.echo(_printable(line))
    if assign:
        typer.echo(f"assigned to {_printable(assign)}{f', due {_day(due)}' if due else ''}")


def _answer(one) -> str:
    from monitoring.review.asked import label_text

    sure = "" if one.confidence is None else f" ({one.confidence:.0%})"
    return "" if one.prediction is None else f"  {label_text(one.prediction)}{sure}"


def _show_issues(entries: list, files: list[Path]) -> None:
    from flows.labels.issues_queue import counts
    from monitoring.review.asked import label_text

    found = ", ".join(f"{count} {why}" for why, count in counts(entries).items())
    typer.echo(f"{len(entries)} samples to look at{f': {found}' if found else ''}")
    lines = []
    for entry in entries:
        says = f"model says {label_text(entry.prediction)}" if entry.prediction is not None else ""
        now = "" if entry.given is None else f"now {label_text(entry.given)}"
        lines.append("  ".join(filter(None, (entry.id[:12], f"{entry.why:<19}", now, says, entry.detail, entry.path))))
    _show(files, lines)


def _show(files: list[Path], lines: list[str]) -> None:
    for file in files:
        typer.echo(f"  written to {file}")
    for line in () if files else lines[:SHOWN]:
        typer.echo(f"  {_printable(line)}")
    if not files and len(lines) > SHOWN:
        typer.echo(f"  ... and {len(lines) - SHOWN} more")


def _production_line(entry) -> str:
    own = " ".join(filter(None, (entry.source, entry.key, entry.path)))
    return f"{entry.id[:12]}  {entry.at:%Y-%m-%d %H:%M}  {entry.why:<10}  {own}"


def _day(day: date) -> str:
    return f"{day:%Y-%m-%d}"


def _printable(text: str) -> str:
    from tasks.common.text import one_line

    return one_line(text, 300)


def annotators() -> None:
    """Show how good each annotator's labels are, and how often people err by second looks at random labels."""
    from flows.labels.people import annotators as known
    from flows.labels.people import disagreements, read_words, waiting_looks
    from tasks.common.params import load_params

    root = project_root()
    params = load_params(root / "params.yaml")
    words, share = read_words(root, params), params.labels.second_look
    found = known(words, share)
    for one in found:
        guess = one.estimated
        right = "" if guess is None else f"about {guess.right:.1%} right ({guess.low:.1%} to {guess.high:.1%}, from "
        right += f"{guess.labels} that others labelled, too)" if guess else "nobody else labelled the same images"
        looks = f"; {one.second_looks.sentence()}" if one.second_looks.looks else ""
        typer.echo(f"{_printable(one.name)}: {one.labels} labels, {right}{looks}")
    if not found:
        typer.echo("no label names its annotator")
    waiting = len(waiting_looks(words, share))
    typer.echo(f"people: {words.error_rate(share).sentence()}; {waiting} wait (`evergreen queue --issues`)")
    if differ := len(disagreements(words)):
        typer.echo(f"{differ} images on which annotators disagree wait for a reviewer (`evergreen queue --issues`)")


COMMANDS += [queue, annotators]
