"""Rows of image folders, and what paths say by a layout."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tasks.common.cells import is_missing, without_surrogates
from tasks.sources.fields import SPLIT_WORDS, Unusable, split
from tasks.sources.folders import Contents, files_aside
from tasks.sources.layouts import Layout, sample_values
from tasks.sources.offered import Offered, read_time
from tasks.sources.safe_files import resolve_inside, walk, walk_folders
from tasks.sources.times import Times


def folder_rows(root: Path, contents: Contents) -> Iterator[Offered]:
    by_name = splits_by_name([SPLIT_WORDS[name.lower()] for name in contents.split_folders()])
    for folder, entries in walk_folders(root, contents.aside_folders):
        if not contents.images[folder]:
            continue
        label, named = contents.place(folder)
        given = by_name[SPLIT_WORDS[named.lower()]] if named else ()
        aside = files_aside([entry.name for entry in entries])
        for entry in entries:
            if entry.name in aside:
                continue
            where = without_surrogates("/".join((*folder, entry.name)))
            row = Offered(where, path=where, label=label, split=given)
            try:
                file = Path(entry.path)
                yield replace(row, image=_follow(root, file) if entry.is_symlink() else file)
            except Unusable as error:
                yield replace(row, refused=error)


def layout_splits(root: Path, layout: Layout) -> list[str]:
    """The splits that paths under `root` name."""
    found: dict[str, None] = {}
    for entry in walk(root) if "split" in layout.fields else ():
        try:
            found[split(layout.read(without_surrogates(Path(entry.path).relative_to(root).as_posix()))["split"])] = None
        except Unusable:
            continue  # its row is refused
    return [name for name in found if name]


def placed(row: Offered, layout: Layout, splits: dict[str | None, tuple[str, ...]], times: Times) -> Offered:
    """`row` with what its path says where the row itself says nothing."""
    if row.refused is not None:
        return row
    try:
        values = sample_values(layout.read(row.path or ""))
        values["taken_at"], values["bad_time"] = read_time(values["taken_at"], times)
    except Unusable as error:
        return replace(row, refused=error)
    if values["split"]:
        values["split"] = splits.get(values["split"][0], values["split"])
    slices = dict(values.pop("slices")) | dict(row.slices)
    missing = {name: value for name, value in values.items() if _absent(getattr(row, name))}
    return replace(row, slices=tuple(sorted(slices.items())), **missing)


def _absent(value: Any) -> bool:
    return is_missing(value) or value == ()


def _follow(root: Path, link: Path) -> Path:
    """The file under `root` to which `link` leads. Raises Unusable."""
    if link.is_dir():
        raise Unusable("outside_root", "a linked folder is not followed: ingest its target instead")
    return resolve_inside(root, str(link.relative_to(root)))


def splits_by_name(names: Sequence[str | None]) -> dict[str | None, tuple[str, ...]]:
    """Name -> allowed splits. If calibration or test is missing, rows of train may also go there."""
    found = {name: (name,) for name in names if name}
    if "train" in found:
        found["train"] = ("train", *(name for name in ("calibration", "test") if name not in found))
    return found
