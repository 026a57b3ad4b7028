"""Places that may hold traces of an image: lists of files to read, replace or delete.

Both the search before and after an erasure and the erasure itself go through the same lists.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tasks.common.files import atomic_path, sha256_bytes
from tasks.erasure.files import HEAD, is_text, look
from tasks.erasure.traces import Search
from tasks.storage.blobs import Store

LARGEST = 256 << 20  # bytes of a file that is searched
SHOWN = 5  # files that a line names
SEARCHED = (b"PAR1", b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")


@dataclass(frozen=True)
class Item:
    """One file of a place."""

    name: str
    read: Callable[[], bytes | None]  # None: it is gone, or it is nothing that holds traces
    replace: Callable[[bytes | None], None] | None = None  # write the rest; None as content: delete


@dataclass
class Seen:
    """What a search of one place found."""

    place: str
    read: int = 0  # files
    hits: dict[str, int] = field(default_factory=dict)  # how -> traces
    names: list[str] = field(default_factory=list)  # files with hits
    notes: list[str] = field(default_factory=list)  # what could not be searched or stays, and what to do

    def count(self, hits: dict[str, int], name: str) -> None:
        for how, number in hits.items():
            self.hits[how] = self.hits.get(how, 0) + number
        self.names.append(name)


def search_items(place: str, items: Iterable[Item], search: Search) -> Seen:
    """Look through `items` and change nothing."""
    seen = Seen(place)
    for item in items:
        if (content := item.read()) is None:
            continue
        seen.read += 1
        if found := look(content, item.name, search).hits:
            seen.count(found, item.name)
    return seen


def clean_items(items: Iterable[Item], search: Search) -> int:
    """Remove every trace from `items`; how many files changed."""
    changed = 0
    for item in items:
        if (content := item.read()) is None:
            continue
        found = look(content, item.name, search)
        if found.hits and item.replace is not None:
            item.replace(found.rest)
            changed += 1
    return changed


# files


def file_items(files: Iterable[Path], root: Path, delete: bool = False) -> Iterator[Item]:
    """`files`, named relative to `root`. delete: a file with a trace goes as a whole, because it can be made again."""
    for file in files:
        name = str(file.relative_to(root)) if file.is_relative_to(root) else str(file)
        yield Item(name, partial(_read_file, file), partial(_replace_file, file, delete))


def _read_file(file: Path) -> bytes | None:
    try:
        if file.is_symlink() or not file.is_file() or file.stat().st_size > LARGEST:
            return None
        with open(file, "rb") as opened:
            head = opened.read(HEAD)
            if not head.startswith(SEARCHED) and not is_text(head):
                return None
            return head + opened.read()
    except OSError:  # deleted meanwhile, or not ours to read
        return None


def _replace_file(file: Path, delete: bool, rest: bytes | None) -> None:
    if rest is None or delete:
        file.unlink(missing_ok=True)
        return
    if file.suffix == ".log":
        with open(file, "r+b") as log:  # its writer goes on appending to this very file
            log.write(rest)
        return
    mode = file.stat().st_mode & 0o777
    with atomic_path(file) as temporary:
        temporary.write_bytes(rest)
        temporary.chmod(mode)  # data/ and exports may be readable for others


# stores


def store_items(
    store: Store, wanted: Callable[[str], bool], named: bool = False, delete: bool = False
) -> Iterator[Item]:
    """The keys of `store` that are `wanted`. named: files are named by their content, so the rest gets another name.

    delete: a file with a trace goes as a whole, because it can be made again.
    """
    for key in [key for key in store.list("") if wanted(key)]:
        replace = (lambda rest, key=key: store.remove(key)) if delete else partial(_replace_key, store, key, named)
        yield Item(key, partial(_read_key, store, key), replace)


def _read_key(store: Store, key: str) -> bytes | None:
    found = store.read(key)
    return found[0] if found else None


def _replace_key(store: Store, key: str, named: bool, rest: bytes | None) -> None:
    if rest is None:
        store.remove(key)
    elif named:
        folder, _, name = key.rpartition("/")
        size = f"-{len(rest)}" if "-" in name else ""
        store.create(f"{folder}/{sha256_bytes(rest)[:32]}{size}.parquet", rest)
        store.remove(key)
    else:
        found = store.read(key)
        if found is not None:
            store.swap(key, rest, found[1])


def files_under(folder: Path, besides: Collection[str] = ()) -> Iterator[Path]:
    """Files under `folder`, without its direct children `besides`. Links are not followed."""
    if not folder.is_dir():
        return
    for child in sorted(folder.iterdir()):
        if child.name in besides or child.is_symlink():
            continue
        if child.is_dir():
            yield from (file for file in sorted(child.rglob("*")) if file.is_file() and not file.is_symlink())
        elif child.is_file():
            yield child
