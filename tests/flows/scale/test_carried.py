"""Files that travel with a function: the same bytes, loaded once, and nothing left behind."""

from pathlib import Path

import numpy as np
import pytest

from flows.scale.carried import Carried, carry
from tasks.common.errors import DamagedFile

CALLS: list[Path] = []


def read(folder: Path) -> dict[str, bytes]:
    CALLS.append(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def carried(tmp_path) -> Carried:
    for name in "abc":
        (tmp_path / name).write_bytes(name.encode() * 100)
    return carry(tmp_path, ["a", "b"])


def test_the_files_are_loaded_once_from_a_folder_that_is_gone_afterwards(carried):
    CALLS.clear()
    assert carried.loaded(read) == {"a": b"a" * 100, "b": b"b" * 100}
    assert carried.loaded(read) is carried.loaded(read)
    assert [folder.exists() for folder in CALLS] == [False]
    assert carried.loaded(len_of) == 2  # another maker is no other's result


def len_of(folder: Path) -> int:
    return len(list(folder.iterdir()))


def test_a_file_that_changed_on_its_way_is_refused(carried):
    other = Carried(carried.digests[:1], (np.zeros(100, np.uint8),))
    with pytest.raises(DamagedFile, match="Run the command again"):
        other.loaded(read)
