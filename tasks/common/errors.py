"""Errors a user can act on: what was found, where, what was expected, what to do.

Anything the user can cause or fix is an `EvergreenError`; the CLI prints its text without a traceback.
Everything else is a bug and keeps its traceback.
"""

from collections.abc import Sequence
from pathlib import Path


class EvergreenError(Exception):
    """Base of all errors a user can act on. Its text is one complete message."""


class ParamsError(EvergreenError):
    """params.yaml does not fit its schema; the text lists every mistake with its path."""


class DataError(EvergreenError):
    """Input data cannot be used; the text names the file, row or column."""


class DamagedFile(EvergreenError):
    """The content of `path` is not what its name or record says; `expected` and `found` are digests.

    found: None if there is nothing to hash. part: which part of the file, if not all of it. remedy: what to do, where
    `evergreen verify` cannot help.
    """

    def __init__(self, path: Path | str, expected: str, found: str | None, part: str = "", remedy: str | None = None):
        self.path, self.expected, self.found = Path(path), expected, found
        self._arguments = path, expected, found, part, remedy
        remedy = remedy or (
            "`evergreen verify --deep --repair` puts it back where an undamaged copy is left; otherwise restore it "
            "from a backup"
        )
        where = f"{part} of {path}" if part else path
        super().__init__(f"{where} is damaged: expected the digest {expected}, found {found or 'nothing'}. {remedy}")

    def __reduce__(self):  # a child process that decodes may find the damage
        return DamagedFile, self._arguments


def _first(reasons: list[str], most: int = 10) -> str:
    """The first reasons, because a thousand classes may give a thousand; the validation page lists all."""
    more = len(reasons) - most
    return "; ".join(reasons[:most]) + (f"; and {more} more" if more > 0 else "")


class BatchRefused(EvergreenError):
    """A batch failed validation and must not be trained on.

    `batch` is the batch id, `reasons` one sentence per failed rule.
    """

    def __init__(self, batch: str, reasons: list[str]):
        self.batch, self.reasons = batch, list(reasons)
        super().__init__(f"batch {batch} is refused: {_first(self.reasons)}")


class TableRefused(EvergreenError):
    """The whole table (all live batches together) failed validation, so nothing can be trained.

    `checks` are all that were made of the table (tasks.common.checks.Check), passed ones too; they say what to do.
    """

    def __init__(self, reasons: list[str], checks: Sequence = ()):
        self.reasons, self.checks = list(reasons), list(checks)
        super().__init__(f"the data set is refused: {_first(self.reasons)}")


class StageInputError(EvergreenError):
    """A stage's input file is missing or incomplete; the text names the stage to run first."""


class NewerFormat(EvergreenError):
    """A stored file has a schema that only a newer Evergreen can read."""


def refuse_newer(found: object, newest: int, what: str) -> None:
    """Raise EvergreenError if `what`, stored with schema version `found` (None: 1), comes from a newer Evergreen.

    Every stored format has a version number of its own. Readers accept every earlier one.
    """
    if found is None:
        return
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise EvergreenError(f"{what} has the schema version {found!r}: expected a number from 1 to {newest}")
    if found > newest:
        raise NewerFormat(
            f"{what} was written by a newer Evergreen: schema {found}, this one reads up to {newest}. Take over the "
            "newer code with `evergreen upgrade`"
        )
