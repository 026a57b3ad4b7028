"""Writes on real disks of many sizes, in a mount namespace of their own: whole, or named and as before."""

import errno
import os
import subprocess
import sys
from pathlib import Path

from flows.labels import journal
from flows.labels.journal import Answer
from tasks.common.files import atomic_dir, read_json, write_json
from tasks.storage.blobs import DiskFull
from tasks.storage.local import LocalStore
from tests.faults.tier import sample
from tests.support.checkout import ROOT

SIZES = sample((16, 40, 96), range(8, 260, 4))  # KiB
CALL = "from tests.faults.test_disk_full import writes; writes()"


def test_on_disks_of_many_sizes_each_write_is_whole_or_named(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    disk = f"{tmp_path}/disk"
    full = f"mount -t tmpfs -o size=${{size}}k none {disk} && {sys.executable} -c '{CALL}' && umount {disk}"
    script = f"for size in {' '.join(map(str, SIZES))}; do {full} || exit 1; done"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "DISK": disk}
    command = ["unshare", "--mount", *([] if os.getuid() == 0 else ["--map-root-user"]), "sh", "-c", script]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    ends = done.stdout.splitlines()
    assert len(ends) == len(SIZES)
    assert all(int(end) > 0 for end in ends), f"a disk was never full: {ends}"


def writes() -> None:
    """Write more and more until the disk is full; print how many writes failed."""
    disk, failed = Path(os.environ["DISK"]), 0
    store = None
    for number in range(40):
        for write in (_file, _folder, _object, _answer):
            try:
                store = store or LocalStore(disk / "store")
                write(disk, store, number)
            except DiskFull:
                failed += 1
            except OSError as error:  # the command line names it
                failed += error.errno == errno.ENOSPC
        _look(disk)
    print(failed)


def _file(disk: Path, store: LocalStore, number: int) -> None:
    write_json(disk / "file.json", {"of": number, "filling": "x" * 1000 * number})


def _folder(disk: Path, store: LocalStore, number: int) -> None:
    with atomic_dir(disk / "folder") as folder:
        for part in range(3):
            (folder / str(part)).write_text(f"{number}" * 500)


def _object(disk: Path, store: LocalStore, number: int) -> None:
    store.create(f"objects/{number:03d}", f"{number:03d}".encode() * 1000)


def _answer(disk: Path, store: LocalStore, number: int) -> None:
    journal.record(disk, [Answer(f"{number}", "cat", annotator="ann")])


def _look(disk: Path) -> None:
    """Everything that can be read is whole."""
    if (disk / "file.json").exists():
        found = read_json(disk / "file.json")
        assert len(found["filling"]) == 1000 * found["of"]
    if (disk / "folder").exists():
        parts = [file.read_text() for file in (disk / "folder").iterdir()]
        assert len(parts) == 3
        assert len(set(parts)) == 1
    if (disk / "store/objects").exists():
        store = LocalStore(disk / "store")
        for key in store.list("objects/"):
            assert store.read(key)[0] == key[-3:].encode() * 1000
    ids = [answer.id for answer in journal.pending(disk)] if (disk / ".evergreen/labels").exists() else []
    assert len(ids) == len(set(ids))
