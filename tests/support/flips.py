"""Damage files as a failing disk does: the name, the time and, but for a truncation, the size stay."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flip(file: Path, at: int) -> None:
    """Flip one bit of byte `at` of `file`, through every link to it; its mode and its time stay."""
    about = file.stat()
    file.chmod(0o644)
    with open(file, "r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ (1 << at % 8)]))
    file.chmod(about.st_mode)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def truncate(file: Path, size: int) -> None:
    """Cut `file` to `size` bytes; its mode and its time stay."""
    about = file.stat()
    file.chmod(0o644)
    os.truncate(file, size)
    file.chmod(about.st_mode)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


@contextmanager
def flipped(file: Path, at: int) -> Iterator[None]:
    """Byte `at` of `file` is damaged during the block."""
    flip(file, at)
    try:
        yield
    finally:
        flip(file, at)


def places(file: Path, count: int) -> list[int]:
    """`count` places spread over `file`, its first and its last byte among them."""
    last = file.stat().st_size - 1
    return sorted({round(last * number / max(count - 1, 1)) for number in range(count)})
