"""Modules say what they hold, in one short line of plain English."""

import ast
import re

import pytest

from tests.support.checkout import ROOT

PACKAGES = ("tasks", "flows", "monitoring", "serving")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).rglob("*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
ODD = re.compile(
    r"\b(anew|beneath|whoever|whomever|for ever|mend(s|ed|ing)?)\b|(?<!there )\b(is|are) no (?!longer)", re.IGNORECASE
)
LENGTH = 100  # characters of a docstring's first line


def first_line(node: ast.AST) -> str | None:
    text = ast.get_docstring(node)
    return text and text.splitlines()[0]


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_says_in_one_short_line_what_it_holds(package):
    for file in MODULES:
        if file.is_relative_to(ROOT / package):
            line = first_line(ast.parse(file.read_text()))
            assert line, f"{file.relative_to(ROOT)} has no docstring"
            assert len(line) < LENGTH, f"{file.relative_to(ROOT)}: the first line has {len(line)} characters"


def test_no_word_that_reads_as_translated():
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in [*MODULES, *PAGES]
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if ODD.search(line)
    ]
    assert not found, "say it in plain English:\n" + "\n".join(found)
