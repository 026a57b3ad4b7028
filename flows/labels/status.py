"""What `evergreen status` says about labels: which the live model knows, how often people err."""

from pathlib import Path

from flows.labels.journal import pending, unplaced
from flows.labels.people import people_err
from flows.repo.objects import yaml_at
from tasks.common.errors import EvergreenError
from tasks.common.paths import main_checkout
from tasks.dataset.annotation_files import annotation_batches
from tasks.releases.pointer import Pointer


def label_lines(root: Path, live: Pointer | None) -> list[str]:
    """Lines for the terminal; [] where nobody has corrected anything."""
    data, lines = root / "data", []
    if revision := _revision(root, live):
        lines.append(f"{live.version} was judged by the labels of revision {revision}")
    if (data / "dataset.json").is_file() and annotation_batches(data):
        rate = people_err(root)
        lines += [f"how often people err: {rate.sentence()}"] if rate.looks else []
    if waiting := len(pending(root)):
        lines.append(f"{waiting} answers wait to be taken: `evergreen finish` takes them now")
    if lost := len(unplaced(root)):
        lines.append(f"{lost} answers are about images that data/ does not hold: another branch may")
    return lines


def _revision(root: Path, live: Pointer | None) -> str | None:
    """The label revision that the live version records; None if it does not, or its commit is not here."""
    try:
        about = yaml_at(main_checkout(root), live.git_rev, "metrics/validate.json") if live else None
    except EvergreenError:
        return None
    return (about or {}).get("label_revision")
