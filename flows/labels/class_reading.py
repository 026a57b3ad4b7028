"""How class names are read today, also where data/ is not checked out."""

from collections.abc import Sequence
from pathlib import Path

from flows.repo.objects import open_objects, outs_at
from tasks.common.paths import main_checkout
from tasks.common.text import join_names, one_line
from tasks.labels.changes import FOLDER, parse_change, read_changes, sort_changes
from tasks.labels.taxonomy import Taxonomy, compose


def current_taxonomy(root: Path) -> Taxonomy:
    """The taxonomy of the project at `root`: of data/, else of the data that HEAD records."""
    main = main_checkout(root)
    if (main / "data" / "dataset.json").is_file():
        return compose(read_changes(main / "data"))
    if not (oid := outs_at(main, "HEAD").get("data") if (main / "data.dvc").is_file() else None):
        return Taxonomy()
    with open_objects(main) as objects:
        files = objects.files(oid)
        found = [parse_change(objects.read(md5), name) for name, md5 in files.items() if name.startswith(f"{FOLDER}/")]
    return compose(sort_changes(found))


def names_of_then(root: Path, classes: Sequence[str]) -> str | None:
    """How a model with the answers `classes` answers, and how they are read today; None where nothing changed."""
    taxonomy = current_taxonomy(root)
    readings = {name: taxonomy.read(name) for name in classes}
    changed = {name: found for name, found in readings.items() if found.now != name}
    if not changed:
        return None
    told = [
        f"{one_line(repr(name))} ({one_line(repr(found.now)) if found.now else _lost(found.among)})"
        for name, found in changed.items()
    ]
    return f"it answers with names of its time, in brackets how each is read today: {', '.join(told)}"


def _lost(among: Sequence[str]) -> str:
    return f"one of {join_names(map(repr, among))}" if among else "retired"
