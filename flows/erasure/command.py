"""What `evergreen forget` prints."""

from collections.abc import Sequence
from pathlib import Path

from flows.erasure.forget import erase_images
from flows.erasure.look_alikes import alike_note
from flows.erasure.occurrences import ErasurePlan
from flows.erasure.proof import Line, as_text, counts


def forget_command(root: Path, what: Sequence[str], why: str, yes: bool, shared: bool) -> None:
    """Print what an erasure would change or has changed, and the proof."""
    from rich.console import Console
    from rich.markup import escape

    console = Console()
    with console.status("looking") as status:
        done = erase_images(root, what, why, yes=yes, shared=shared, step=lambda text: status.update(escape(text)))
    plan = done.plan
    if not plan.ids and done.proof:
        console.print("nothing to erase: these images were erased before, and were searched for again")
    else:
        erased = done.proof is not None
        console.print(f"{'erased' if erased else 'would erase'} {plan.sentence()}")
        _print_plan(console, plan, erased, shared)
    if done.proof is None:
        _print_lines(console, done.lines)
        for note in alike_note(list(done.alike)):
            console.print(note, soft_wrap=True, markup=False, highlight=False)
        console.print("nothing was changed; `--yes` erases, which cannot be undone")
        return
    console.print(as_text(done.proof), soft_wrap=True, markup=False, highlight=False)
    if done.file:
        console.print(f"the proof is stored in {done.file}", soft_wrap=True, markup=False, highlight=False)


def _print_plan(console, plan: ErasurePlan, erased: bool, shared: bool) -> None:
    for version in plan.versions:
        console.print(f"{version}: its data can no longer be restored completely; its model was made with the image(s)")
    if plan.branches:
        console.print(
            f"{plan.branches} other branch(es) hold them in their data, which cannot be restored completely either"
        )
    for line in [] if shared else sorted({line for users in plan.shared.values() for line in users}):
        count = sum(line in users for users in plan.shared.values())
        console.print(
            f"{count} object(s) that show or name them {'stay' if erased else 'would stay'} in {line} uses them too. "
            "Run `evergreen forget` there as well, or delete them for everyone with --shared.",
            soft_wrap=True,
            markup=False,
        )


def _print_lines(console, lines: Sequence[Line]) -> None:
    """Which places hold what, before anything is erased."""
    for line in lines:
        if line.before:
            console.print(f"{line.place}: {counts(line.before)}", soft_wrap=True, markup=False, highlight=False)
        for note in line.notes:
            console.print(f"{line.place}: {note}", soft_wrap=True, markup=False, highlight=False)
