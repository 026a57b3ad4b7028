"""Read a table of labels as people save it: CSV of any spreadsheet, encoding and separator.

Excel writes semicolons where the comma is the decimal sign, a BOM or Windows-1252, UTF-16 for "Unicode text", and
sometimes a first line `sep=;`. Nothing of that changes what a row says.
"""

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.common.errors import DataError

SEPARATORS = ",;\t|"
LONGEST = 1 << 27  # characters of a cell: exports of Label Studio hold whole images


class Table(NamedTuple):
    """A header, rows as (line number, cells), and what was guessed about the file, one line each."""

    names: list[str]
    rows: list[tuple[int, list[str]]]
    notes: list[str]


def read_table(file: Path) -> Table:
    """The rows of a CSV or TSV file that hold anything. Raises DataError if it is none."""
    text, encoding = _decode(file)
    notes = [] if encoding == "utf-8" else [f"{file.name} is read as {encoding}"]
    lines, skipped = text, 0
    first = text[: text.find("\n")].rstrip("\r") if "\n" in text else text
    separator = None
    if first.lower().startswith("sep=") and len(first) == 5:
        separator, lines, skipped = first[4], text[text.find("\n") + 1 :], 1
    header = lines[: lines.find("\n")] if "\n" in lines else lines
    separator = separator or max(SEPARATORS, key=header.count)
    before = csv.field_size_limit(LONGEST)
    try:
        rows = [(line + skipped, cells) for line, cells in _rows(lines, separator)]
    except csv.Error as error:
        raise DataError(f"{file} cannot be read as CSV: {error}") from None
    finally:
        csv.field_size_limit(before)
    if not rows:
        raise DataError(f"{file} is empty: expected a header line with column names, e.g. id,label")
    names = [name.strip() for name in rows[0][1]]
    while names and not names[-1]:  # spreadsheets pad with empty columns
        names.pop()
    return Table(names, rows[1:], notes)


def _decode(file: Path) -> tuple[str, str]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from None
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace"), "UTF-16"
    if b"\0" in content:
        raise DataError(f"{file} cannot be read as CSV: it holds NUL bytes. Save the table as CSV (UTF-8)")
    try:
        return content.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace"), "Windows-1252, because it is not UTF-8"


def _rows(text: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    for cells in reader:
        if any(cell.strip() for cell in cells):
            yield reader.line_num, cells
