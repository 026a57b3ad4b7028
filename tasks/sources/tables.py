"""Open text files and tables as people save them: any usual encoding, separator and spreadsheet.

Excel writes semicolons where the comma is the decimal sign, a BOM or Windows-1252, UTF-16 for "Unicode text", and
sometimes a first line `sep=;`. Nothing of that changes what a row says.
"""

import codecs
import csv
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

from tasks.common.errors import DataError
from tasks.common.written import LFS_ADVICE, is_lfs_pointer, tidy

SEPARATORS = ",;\t|"
BLOCK = 1 << 20
LONGEST = 1 << 27  # characters of a cell: exports of Label Studio hold whole images


class Table(NamedTuple):
    """A header, rows as (line number, cells), and what was guessed about the file, one line each."""

    names: list[str]
    rows: Iterator[tuple[int, list[str]]]
    notes: list[str]


def open_text(file: Path, what: str) -> tuple[TextIO, str | None]:
    """(`file` opened as text, how it is read if it is not UTF-8). `what` is the expected form, for errors.

    Raises DataError.
    """
    try:
        encoding, note = _encoding(file, what)
        return open(file, encoding=encoding, errors="replace", newline=""), note
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None


def _encoding(file: Path, what: str) -> tuple[str, str | None]:
    with open(file, "rb") as content:
        first = content.read(BLOCK)
        if is_lfs_pointer(first):
            raise DataError(f"{file}: {LFS_ADVICE}")
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16", f"{file.name} is read as UTF-16"
        if (encoding := _wide(first)) is not None:
            return encoding, f"{file.name} is read as UTF-16"
        nul = first.count(0)  # one in a cell costs only its row; many, or in another encoding: it is not text
        binary = DataError(f"{file} cannot be read as {what}: it holds NUL bytes. Save it in UTF-8")
        if 10 * nul > len(first):
            raise binary
        decoder = codecs.getincrementaldecoder("utf-8")()
        block = first
        try:
            while block:
                decoder.decode(block)
                block = content.read(BLOCK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            if nul:
                raise binary from None
            return "cp1252", f"{file.name} is read as Windows-1252, because it is not UTF-8"
    return "utf-8-sig", None


def _wide(first: bytes) -> str | None:
    """UTF-16 without a mark: every second byte of its Latin text is 0."""
    part = first[: min(len(first), 512) & ~1]
    if len(part) >= 8:
        for encoding, zeros, others in (("utf-16-le", part[1::2], part[::2]), ("utf-16-be", part[::2], part[1::2])):
            if not any(zeros) and all(others):
                return encoding
    return None


def open_table(file: Path, words: Collection[str] = ()) -> Table:
    """The rows of a CSV or TSV file that hold anything. `words`: lower-case column names that a header may have.

    Lines before the header that begin with "#" are comments. Raises DataError, also while rows are read.
    """
    lines, note = open_text(file, "CSV")
    csv.field_size_limit(LONGEST)
    skipped, header, separator = 0, "", None
    while (header := lines.readline()) and (not header.strip() or header.lstrip().startswith(("#", "sep=", "SEP="))):
        text = header.strip()
        if text.lower().startswith("sep="):
            if len(text) != 5:
                break
            separator = text[4]
        elif _is_known(_cells(text := text.lstrip("# "), _separator(text, words)), words):  # "# path,label"
            header = header.lstrip("# ")
            break
        skipped += 1
    separator = separator or _separator(header, words)
    rows = _rows(file, lines, header, separator, skipped)
    first = next(rows, None)
    if first is None:
        raise DataError(f"{file} is empty: expected a header line with column names, e.g. path,label")
    names = [tidy(name) for name in first[1]]
    while names and not names[-1]:  # spreadsheets pad with empty columns
        names.pop()
    return Table(names, rows, [note] if note else [])


def plain_name(name: str) -> str:
    """The name of a column as ALIASES write it: "File Name" is file_name."""
    return tidy(name).lower().replace(" ", "_").replace("-", "_")


def _separator(header: str, words: Collection[str]) -> str:
    """The separator that gives column names we know, otherwise the most frequent one."""
    found = sorted(SEPARATORS, key=header.count, reverse=True)
    known = [one for one in found if one in header and _is_known(_cells(header, one), words)]
    return (known or found)[0]


def _is_known(cells: list[str], words: Collection[str]) -> bool:
    return any(plain_name(cell) in words for cell in cells)


def _cells(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])


def _rows(file: Path, lines: TextIO, header: str, separator: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    def all_lines() -> Iterator[str]:
        yield header
        yield from lines

    with lines:
        reader = csv.reader(all_lines(), delimiter=separator, skipinitialspace=separator != "\t", strict=True)
        try:
            for cells in reader:
                if any(cell.strip() for cell in cells):
                    yield reader.line_num + skipped, [cell.strip() for cell in cells]
        except (csv.Error, OSError) as error:
            raise DataError(f"{file} cannot be read as CSV: line {reader.line_num + skipped}: {error}") from None


def fit_cells(cells: list[str], names: list[str]) -> str | None:
    """Why a row does not fit the header, or None. Empty cells after the last column are ignored."""
    if len(cells) < len(names) or any(cells[len(names) :]):
        return f"{len(cells)} fields, the header has {len(names)}"
    return None
