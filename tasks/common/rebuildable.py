"""Read state that can be rebuilt: a damaged file costs one line, never a traceback.

A power cut, a full disk or a person can leave such a file empty, cut short, or with a folder in its place. The caller
says what the content must be. Anything else is set aside under `<name>.damaged`, for a person to look at: the next
write finds a free place, and the line appears once.

Only for what Evergreen can do without: never for answers of people, erasures, releases.
"""

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from tasks.common.errors import EvergreenError, NewerFormat

T = TypeVar("T")
logger = logging.getLogger(__name__)
WRONG = (ValueError, TypeError, KeyError, AttributeError, IndexError, OverflowError, RecursionError)  # wrong content


def read_rebuildable(
    path: Path,
    accept: Callable[[Any], T],
    without: str = "it is rebuilt",
    parse: Callable[[bytes], Any] = json.loads,
) -> T | None:
    """What `accept` makes of the JSON value in `path`; None if the file is missing or damaged.

    accept: raises ValueError, TypeError, KeyError or the like for wrong content. without: what happens now, for the
    line about a damaged file. parse: for a file that is not JSON. A file that a newer Evergreen wrote is an error, not
    damage.
    """
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except IsADirectoryError:
        return set_aside(path, "a folder is in its place", without)
    try:
        return accept(parse(content))
    except NewerFormat:
        raise
    except (EvergreenError, *WRONG) as error:
        return set_aside(path, _reason(content, error), without, content)


def expect(value: Any, kind: type[T]) -> T:
    """`value` if it is of `kind`; True and False do not count as int. Raises TypeError."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {getattr(kind, '__name__', kind)}, found {type(value).__name__}")
    return value


def expect_dict(value: Any, of: type[T]) -> dict[str, T]:
    """`value` if it is a dict whose values are all of the type `of`. Raises TypeError."""
    return {name: expect(one, of) for name, one in expect(value, dict).items()}


def set_aside(path: Path, why: str, without: str, content: bytes | None = None) -> None:
    """Move the damaged `path` to `<name>.damaged` and say so in one line.

    content: what was read; the file stays if another process has replaced it since.
    """
    aside = path.with_name(f"{path.name}.damaged")
    try:
        if content is not None and path.read_bytes() != content:
            return
        if aside.is_dir() and not aside.is_symlink():
            shutil.rmtree(aside)
        else:
            aside.unlink(missing_ok=True)
        os.replace(path, aside)
        kept = f"; kept as {aside.name}"
    except OSError:  # gone since, or a folder that this user may only read
        kept = ""
    logger.warning("%s is damaged (%s): %s%s", path, why, without, kept)


def _reason(content: bytes, error: Exception) -> str:
    if not content.strip(b"\0 \r\n\t"):
        return "it is empty"
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(error, json.JSONDecodeError | RecursionError):
        return "it is not JSON, or cut short"
    if isinstance(error, KeyError):
        return f"{error} is missing in it"
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc'])) or 'content'}: {first['msg']}"
    return str(error).splitlines()[0] if str(error) else type(error).__name__
