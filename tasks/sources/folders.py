"""What the names in a folder tell: images of classes and splits, and files to leave aside.

Left aside are sidecars (.json, .xml, .txt, ...), masks and thumbnails of images that are there too, and what file
managers leave. A folder of masks or thumbnails must mirror the images next to it; its name alone is not enough.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tasks.common.cells import without_surrogates
from tasks.common.text import join_names
from tasks.sources.fields import SPLIT_WORDS
from tasks.sources.safe_files import list_entries, walk

IMAGE_SUFFIXES = {
    *("", ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"),
    *(".mpo", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".heic", ".heif"),
}
SIDECAR_SUFFIXES = {
    *(".json", ".jsonl", ".xml", ".txt", ".xmp", ".csv", ".tsv", ".yaml", ".yml", ".md", ".rst", ".html", ".htm"),
    *(
        ".aae",
        ".exif",
        ".ini",
        ".cfg",
        ".log",
        ".lst",
        ".pdf",
        ".doc",
        ".docx",
        ".xls",
        ".xlsx",
        ".npy",
        ".npz",
        ".mat",
    ),
    *(
        ".pkl",
        ".pt",
        ".h5",
        ".db",
        ".sqlite",
        ".py",
        ".ipynb",
        ".m",
        ".sh",
        ".names",
        ".geojson",
        ".svg",
        ".wav",
        ".mp3",
    ),
    *(".mov", ".mp4", ".avi", ".tfw", ".jgw", ".pgw", ".prj"),
}
SIDECAR_NAMES = {"readme", "license", "licence", "copying", "notice", "authors", "changelog", "makefile"}
LOSSLESS = {".png", ".bmp", ".tif", ".tiff", ".gif"}
MASK_FOLDERS = {
    *("mask", "masks", "label", "labels", "annotation", "annotations", "annot", "seg", "segs", "segmentation"),
    *("segmentations", "gt", "ground_truth", "groundtruth"),
}
THUMBNAIL_FOLDERS = {"thumb", "thumbs", "thumbnail", "thumbnails", "_thumbs", "_thumbnails", "@eadir"}
WRAPPERS = {"image", "images", "img", "imgs", "data", "dataset", "photos", "pictures", "jpegimages"}
MIRRORED = 0.9  # share of a folder's images that must have an image of the same name next to the folder

MASK = re.compile(r"(.+?)[ ._-]+(?:(masks?)|segmentation|seg|labels?|gt|ground_?truth|annotation)[ ._-]?\d*$", re.I)
THUMBNAIL = re.compile(r"(?:thumb(?:nail)?s?[ ._-]+(.+)|(.+?)[ ._-]+thumb(?:nail)?s?)$", re.I)

Parts = tuple[str, ...]  # a folder under the source: the names on the way to it


@dataclass
class Contents:
    """How a folder of images is read."""

    images: Counter[Parts] = field(default_factory=Counter)  # folder -> images directly in it
    aside: dict[str, Counter[str]] = field(default_factory=dict)  # kind -> what, for people -> files
    aside_folders: dict[Parts, str] = field(default_factory=dict)  # folder -> kind of all its files
    through: set[Parts] = field(default_factory=set)  # folders whose name is neither class nor split
    split_level: int | None = None  # which name of a path, `through` not counted, is the split

    def place(self, folder: Parts) -> tuple[str | None, str | None]:
        """(class folder, split folder) of the images in `folder`; None where there is none."""
        names = [name for depth, name in enumerate(folder, 1) if folder[:depth] not in self.through]
        split = None
        if self.split_level is not None and len(names) > self.split_level:
            split = names.pop(self.split_level)
        return (names[0] if names else None), split

    def classes(self) -> Counter[str | None]:
        """Class folder -> images; None: images without one."""
        found: Counter[str | None] = Counter()
        for folder, count in self.images.items():
            found[self.place(folder)[0]] += count
        return found

    def split_folders(self) -> list[str]:
        """The names of folders that give the split, in the order of the walk."""
        return list(dict.fromkeys(split for folder in self.images if (split := self.place(folder)[1])))

    def sentences(self) -> list[str]:
        """What was understood of the folders, for people, without the classes."""
        found = []
        if splits := self.split_folders():
            found.append(f"split from {' '.join(f'{without_surrogates(name)}/' for name in splits)}")
        if self.through:
            names = sorted({without_surrogates(folder[-1]) for folder in self.through})
            found.append(f"{', '.join(f'{name}/' for name in names)} not taken as a class")
        return found

    def repeated_below(self) -> tuple[list[str], str, str] | None:
        """(names of folders that several class folders hold, layouts with them as {class} and as {source}), or None."""
        holders: dict[str, set[str]] = {}
        kinds: list[str] = []
        deeper = False
        for folder in self.images:
            kept = [depth for depth in range(len(folder)) if folder[: depth + 1] not in self.through]
            if self.split_level is not None and len(kept) > self.split_level:
                kept.pop(self.split_level)
            if len(kept) > 1:
                deeper = deeper or len(kept) > 2
                holders.setdefault(folder[kept[1]], set()).add(folder[kept[0]])
                kinds = kinds or [self._kind(folder, depth) for depth in range(kept[1])] + ["below"]
        names = sorted(name for name, found in holders.items() if len(found) > 1)
        if len(names) < 2 or 2 * len(names) < len(holders):
            return None
        first, second = ({"top": a, "below": b} for a, b in (("{source}", "{class}"), ("{class}", "{source}")))
        rest = ["{**}", "{*}"] if deeper else ["{*}"]
        layouts = ["/".join([*(way.get(kind, kind) for kind in kinds), *rest]) for way in (first, second)]
        return names, layouts[0], layouts[1]

    def _kind(self, folder: Parts, depth: int) -> str:
        """What a layout calls the folder at `depth`, above the names that repeat; "top": the class so far."""
        if folder[: depth + 1] in self.through:
            return "{*}"
        place = sum(folder[: upper + 1] not in self.through for upper in range(depth))
        return "{split}" if place == self.split_level else "top"

    def left_aside(self) -> list[str]:
        """What is not taken, for people."""
        found = []
        for kind, counts in self.aside.items():
            total = sum(counts.values())
            kinds = kind if total == 1 else f"{kind}s"
            found.append(
                f"{total} {kinds} left aside: {join_names(sorted(counts, key=lambda name: (-counts[name], name)))}"
            )
        return found


def read_contents(root: Path) -> Contents:
    """Walk `root` once and decide what its files are. Raises DataError if a folder cannot be listed."""
    contents = Contents()
    folders: list[Parts] = [()]
    while folders:
        folder = folders.pop()
        hidden: list[str] = []
        entries = list_entries(root.joinpath(*folder), hidden)
        for name in hidden:
            _count(contents, "hidden or system file", "._*" if name.startswith("._") else name)
        names = [entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)]
        below = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        left = files_aside(names)
        for name, kind in left.items():
            _count(contents, kind, Path(name).suffix.lower() or name)
        if count := len(names) - len(left):
            contents.images[folder] += count
        for name in below:
            if (kind := _kind_of_folder(root.joinpath(*folder), name)) is not None:
                contents.aside_folders[(*folder, name)] = kind
                _count_folder(contents, root.joinpath(*folder, name), kind, f"{'/'.join((*folder, name))}/")
        kept = [name for name in below if (*folder, name) not in contents.aside_folders]
        if len(kept) < len(below):  # images/ beside masks/
            contents.through |= {(*folder, name) for name in kept if name.lower() in WRAPPERS}
        folders += [(*folder, name) for name in reversed(kept)]
    _find_wrappers(contents)
    _find_splits(contents)
    return contents


def files_aside(names: list[str]) -> dict[str, str]:
    """The files of one folder that are not images to take: name -> kind (sidecar file, mask, thumbnail)."""
    found = {name: "sidecar file" for name in names if _is_sidecar(name)}
    stems = {Path(name).stem for name in names if name not in found}
    for name in names:
        if name in found:
            continue
        path = Path(name)
        mask, thumbnail = MASK.match(path.stem), THUMBNAIL.match(path.stem)
        if mask and mask[1] in stems and (mask[2] or path.suffix.lower() in LOSSLESS):
            found[name] = "mask"
        elif thumbnail and (thumbnail[1] or thumbnail[2]) in stems:
            found[name] = "thumbnail"
    return found


def _is_sidecar(name: str) -> bool:
    path = Path(name)
    return path.suffix.lower() in SIDECAR_SUFFIXES or (not path.suffix and name.lower() in SIDECAR_NAMES)


def _kind_of_folder(parent: Path, name: str) -> str | None:
    """The kind of all files in the folder `name`: "mask" or "thumbnail" if it mirrors its neighbours, or None."""
    kind = "mask" if name.lower() in MASK_FOLDERS else "thumbnail" if name.lower() in THUMBNAIL_FOLDERS else None
    if kind is None:
        return None
    inside = list(_image_stems(parent / name))
    if not inside:
        files = [entry.name for entry in walk(parent / name)]
        return "sidecar file" if files and all(map(_is_sidecar, files)) else None
    outside: set[str] = {Path(e.name).stem for e in list_entries(parent) if not e.is_dir(follow_symlinks=False)}
    for entry in list_entries(parent):
        if entry.name != name and entry.is_dir(follow_symlinks=False):
            outside.update(_image_stems(Path(entry.path)))
    return kind if sum(not outside.isdisjoint(_bases(stem)) for stem in inside) >= MIRRORED * len(inside) else None


def _image_stems(folder: Path) -> Iterator[str]:
    return (Path(entry.name).stem for entry in walk(folder) if Path(entry.name).suffix.lower() in IMAGE_SUFFIXES)


def _bases(stem: str) -> set[str]:
    """Stems that the image of a mask or thumbnail `stem` may have."""
    mask, thumbnail = MASK.match(stem), THUMBNAIL.match(stem)
    return {stem} | ({mask[1]} if mask else set()) | ({thumbnail[1] or thumbnail[2]} if thumbnail else set())


def _count(contents: Contents, kind: str, what: str, count: int = 1) -> None:
    contents.aside.setdefault(kind, Counter())[without_surrogates(what)] += count


def _count_folder(contents: Contents, folder: Path, kind: str, shown: str) -> None:
    for entry in walk(folder):
        if _is_sidecar(entry.name):
            _count(contents, "sidecar file", Path(entry.name).suffix.lower() or entry.name)
        else:
            _count(contents, kind, shown)


def _find_wrappers(contents: Contents) -> None:
    """A folder called images or data that alone holds everything is not a class."""
    top: Parts = ()
    while not contents.images[top]:
        below = {folder[: len(top) + 1] for folder in contents.images if contents.images[folder]}
        if len(below) != 1 or (top := below.pop())[-1].lower() not in WRAPPERS:
            break
        contents.through.add(top)


def _find_splits(contents: Contents) -> None:
    """Splits are named by all folders at the top, or by all folders in each class folder."""
    paths = [
        [name for depth, name in enumerate(folder, 1) if folder[:depth] not in contents.through]
        for folder, count in contents.images.items()
        if count
    ]
    tops = {path[0] for path in paths if path}
    if tops and all(name.lower() in SPLIT_WORDS for name in tops):
        contents.split_level = 0
    elif tops and all(len(path) > 1 and path[1].lower() in SPLIT_WORDS for path in paths):
        contents.split_level = 1
