"""`evergreen classes define`: say what a class means, with images, for the people who label."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flows.labels.resolve import resolve
from flows.labels.samples import find_samples, held_ids, iter_images
from flows.project.data_commit import commit_data, undone_if_refused
from flows.project.ingest import restored_data
from flows.repo.git import check_repository
from flows.repo.pipeline import record_data
from monitoring.review.asked import ClassGuide
from monitoring.review.label_studio import data_uri
from tasks.common.errors import DataError
from tasks.common.person import person
from tasks.dataset.shards import read_tombstones
from tasks.ingest.lock import data_lock
from tasks.labels.definitions import IMAGES, TEXT, Definition, newest, write_definition
from tasks.labels.taxonomy import read_taxonomy


@dataclass(frozen=True)
class Meaning:
    """What a class means today, and who said so."""

    name: str
    text: str
    images: tuple[str, ...]  # ids
    at: str
    by: str


def meanings(data: Path) -> dict[str, Meaning]:
    """Class, as it is called today, -> what it means."""
    taxonomy, found = read_taxonomy(data), {}
    for one in sorted(newest(data).values(), key=lambda one: (one.number, one.at)):
        name = taxonomy.rename(one.name)
        found[name] = Meaning(name, one.text, one.images, one.at, one.by)
    return found


def define(
    root: Path,
    name: str,
    classes: Sequence[str],
    *,
    text: str | None = None,
    images: Sequence[str] | None = None,
    by: str | None = None,
    commit: bool = True,
) -> Definition | None:
    """Record what the class `name` (one of `classes`) means and commit it; None if nothing is new.

    text: None keeps what it says. images: up to IMAGES samples by id, start of an id, key or path; None keeps them.
    Raises EvergreenError.
    """
    check_repository(root, commit=False)
    restored_data(root)
    data = root / "data"
    if name not in classes:
        raise DataError(f"{name!r} is not a class: expected one of {', '.join(classes)[:300]}")
    before = meanings(data).get(name)
    said = (before.text if before else "") if text is None else text.strip()
    if len(said) > TEXT:
        raise DataError(f"the text has {len(said)} characters, at most {TEXT} are kept")
    shown = (before.images if before else ()) if images is None else _ids(root, images)
    if (said, shown) == ((before.text, before.images) if before else ("", ())):
        return None
    with undone_if_refused(root):
        with data_lock(root):
            at = datetime.now(UTC).isoformat(timespec="seconds")
            made = write_definition(data, name, said, shown, at, by or person(root))
        record_data(root)
        if commit:
            commit_data(root, f"Define the class {name}"[:72])
    return made


def guides(root: Path, classes: Sequence[str], max_pixels: int) -> list[ClassGuide]:
    """What the classes mean, with their images, for a page; classes without a definition are left out."""
    data = root / "data"
    if not (data / "dataset.json").is_file():
        return []
    known = meanings(data)
    wanted = [name for image in classes if image in known for name in known[image].images]
    content = dict(iter_images(data, find_samples(data, wanted, read_tombstones(root)))) if wanted else {}
    found = []
    for name in classes:
        if name in known:
            shown = tuple(data_uri(content[image], max_pixels) for image in known[name].images if image in content)
            found.append(ClassGuide(name=name, text=known[name].text, images=shown))
    return found


def _ids(root: Path, texts: Sequence[str]) -> tuple[str, ...]:
    """Ids of the samples that `texts` name. Raises DataError for one that names none, or too many."""
    if len(texts) > IMAGES:
        raise DataError(f"{len(texts)} reference images, at most {IMAGES} are shown: name the clearest")
    named = resolve(root, texts)
    if named.refused:
        raise DataError("; ".join(f"{text!r}: {why}" for text, why in named.refused.items()))
    ids = tuple(dict.fromkeys(named.found[text] for text in texts))
    if missing := set(ids) - held_ids(root / "data", ids):
        raise DataError(f"{min(missing)[:12]} is not in the data set: only its images can stand for a class")
    return ids
