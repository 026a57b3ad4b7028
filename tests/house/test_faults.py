"""Every fault has tests, every test named exists, and docs/faults.md is what `make faults` wrote."""

import ast
import re

import pytest

from tests.faults import matrix, report
from tests.support.checkout import ROOT

ROWS = 55  # faults that are known; a new one gets the next number


def test_every_fault_has_a_row():
    assert sorted(matrix.ROWS) == list(range(1, ROWS + 1))
    assert sum(map(len, matrix.AREAS.values())) == ROWS


@pytest.mark.parametrize("number", matrix.ROWS)
def test_every_row_has_tests_that_exist(number):
    row = matrix.ROWS[number]
    assert row.tests, f"fault {number} has no test"
    for name in row.tests:
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        defined = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in defined, f"fault {number}: {name}"


def test_every_figure_comes_from_a_benchmark():
    scripts = " ".join(file.read_text(encoding="utf-8") for file in (ROOT / "benchmarks").glob("*.py"))
    for number, row in matrix.ROWS.items():
        for figure in row.figures:
            stem = re.sub(r"_(1gb_s|10x)$", "", figure)
            assert figure in scripts or stem in scripts, f"fault {number}: {figure}"


def test_the_page_is_what_make_faults_wrote():
    text = (ROOT / "docs/faults.md").read_text(encoding="utf-8")
    assert text == report.page(report.read_results()), "run `make faults`, or `python -m tests.faults --write`"


def test_a_failing_test_shows_in_its_row_and_a_missing_result_is_said():
    name = matrix.ROWS[19].tests[0]
    about = {"date": "2026-01-02", "code": "abc", "seconds": 1.5, "cases": 2}
    good = report.page({"tests": {name: about | {"outcome": "passed"}}, "figures": {}})
    bad = report.page({"tests": {name: about | {"outcome": "failed"}}, "figures": {}})
    line = next(line for line in good.splitlines() if line.startswith("| 19 |"))
    assert "| passed |" in line
    assert "| **failed** |" in next(line for line in bad.splitlines() if line.startswith("| 19 |"))
    assert "| not run |" in next(line for line in good.splitlines() if line.startswith("| 20 |"))
