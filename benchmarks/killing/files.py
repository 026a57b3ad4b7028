"""Kills of the writes under everything else: files, folders, objects of a store."""

from pathlib import Path

from benchmarks.killing.checks import check, no_leftovers
from tasks.common.files import atomic_dir, read_json, sweep, write_json
from tasks.storage.local import LocalStore


class Files:
    """Atomic writes, and the objects of which journals and queues of production consist."""

    points = ("files.temporary", "files.placed", "files.folder", "files.aside", "files.folder_placed")
    points += ("store.temporary", "store.placed")

    @staticmethod
    def make(root: Path) -> None:
        Files._write(root, 99)

    @staticmethod
    def act(root: Path, seed: int) -> None:
        Files._write(root, seed)

    @staticmethod
    def _write(root: Path, seed: int) -> None:
        write_json(root / "file.json", {"of": seed})
        with atomic_dir(root / "folder") as folder:
            for number in range(5):
                (folder / str(number)).write_text(f"{seed}")
        LocalStore(root / "log").create(f"windows/{seed:03d}.json", Files._content(seed))

    @staticmethod
    def _content(seed: int) -> bytes:
        return f"{seed}".encode() * 1000 * (1 + seed)

    @staticmethod
    def state(root: Path) -> object:
        """Three files, each complete or missing."""
        found = {file.read_text() for file in (root / "folder").glob("*")}
        check(len(found) <= 1 and len(list((root / "folder").glob("*"))) in (0, 5), "half a folder")
        read_json(root / "file.json")
        log = LocalStore(root / "log")
        for key in log.list("windows/"):
            check(log.read(key)[0] == Files._content(int(Path(key).stem)), f"half of {key}")
        return "whole"

    @staticmethod
    def again(root: Path, seed: int) -> None:
        sweep(root)
        LocalStore(root / "log").sweep()
        Files._write(root, seed)
        check(read_json(root / "file.json") == {"of": seed}, "the file")
        check({f.read_text() for f in (root / "folder").glob("*")} == {str(seed)}, "the folder")

    @staticmethod
    def whole(root: Path) -> None:
        no_leftovers(root)
        check(not list((root / "log/.tmp").iterdir()), "half an object")
