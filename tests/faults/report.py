"""docs/faults.md, written from the matrix and the results of `make faults` in docs/faults.json."""

from typing import Any

from tasks.common.files import atomic_path, read_json, write_json
from tests.faults.matrix import AREAS, ROWS, Row
from tests.support.checkout import ROOT

RESULTS, PAGE = ROOT / "docs/faults.json", ROOT / "docs/faults.md"
HEAD = """# Faults

What goes wrong in the field, what Evergreen does then, and the tests and figures that show it. `make faults` runs every
test named here with all its seeds and sizes, and writes this page: it goes on where it was stopped. `make test` runs a
sample. `tests/faults/matrix.py` lists the rows.

Tests of properties draw their examples from fixed seeds in `make test` and from new ones in `make faults`; a failure
prints what reproduces it. Kills and S3 schedules are numbered by seed: `--replay` repeats one.
"""


def read_results() -> dict[str, Any]:
    """{tests: {name: {outcome, date, code, seconds, cases}}, figures: {name: figure}} of all calls so far."""
    return read_json(RESULTS) if RESULTS.is_file() else {"tests": {}, "figures": {}}


def recorded_figures() -> dict[str, dict[str, Any]]:
    """Figure -> what docs/benchmarks says of it, for every figure that a row names."""
    wanted = {name for row in ROWS.values() for name in row.figures}
    found = [one for file in sorted((ROOT / "docs/benchmarks").glob("*.json")) for one in read_json(file)]
    return {one["name"]: one for one in found if one["name"] in wanted}


def write(results: dict[str, Any]) -> None:
    """Write docs/faults.json and docs/faults.md."""
    named = {name for row in ROWS.values() for name in row.tests}
    results = {
        "tests": {name: one for name, one in sorted(results["tests"].items()) if name in named},
        "figures": recorded_figures(),
    }
    write_json(RESULTS, results)
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page(results), encoding="utf-8")


def page(results: dict[str, Any]) -> str:
    """The text of docs/faults.md."""
    tests = results["tests"]
    ran = [one for one in tests.values() if one["outcome"] == "passed"]
    names = {name for row in ROWS.values() for name in row.tests}
    lines = [HEAD, f"{len(ROWS)} faults; {len(ran)} of {len(names)} tests passed in `make faults`.", ""]
    for area, rows in AREAS.items():
        lines += [
            f"## {area}",
            "",
            "| # | fault | what happens | tests | result | figures |",
            "|---|---|---|---|---|---|",
        ]
        lines += [_line(number, row, results) for number, row in rows.items()]
        lines.append("")
    elsewhere = [f"- {number}: {row.not_here}" for number, row in ROWS.items() if row.not_here]
    lines += ["## Not shown on this machine", "", *elsewhere, "", "## Tests", ""]
    lines += ["| test | cases | result | seconds | date | code |", "|---|---|---|---|---|---|"]
    for name in sorted(names):
        one = tests.get(name)
        told = (
            f"{one['cases']} | {one['outcome']} | {one['seconds']:.1f} | {one['date']} | `{one['code']}`" if one else ""
        )
        lines.append(f"| `tests/{name.partition('::')[0]}` {_words(name)} | {told or '| not run | | |'} |")
    lines += [
        "",
        "## Figures",
        "",
        "| figure | measured | goal | seeds | date | command |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in sorted(results["figures"].items()):
        goal = "" if one["goal"] is None else f"{'≥' if one['better'] == 'higher' else '≤'} {one['goal']:g}"
        value = f"{one['value']:.4g} {one['unit']}".strip()
        lines.append(f"| `{name}` | {value} | {goal} | {one['seeds']} | {one['date']} | `{one['command']}` |")
    return "\n".join(lines) + "\n"


def _line(number: int, row: Row, results: dict[str, Any]) -> str:
    outcomes = [results["tests"].get(name, {}).get("outcome", "not run") for name in row.tests]
    worst = next((one for one in ("failed", "not run") if one in outcomes), "passed")
    figures = []
    for name in row.figures:
        one = results["figures"].get(name)
        figures.append(f"`{name}` {one['value']:.4g} {one['unit']}".strip() if one else f"`{name}` not measured")
    shown = "; ".join(_words(name) for name in row.tests)
    result = f"**{worst}**" if worst == "failed" else worst
    return f"| {number} | {row.fault} | {row.behaviour} | {shown} | {result} | {'; '.join(figures)} |"


def _words(name: str) -> str:
    """A test's name without what all have."""
    return f"`{name.rpartition('::')[2].removeprefix('test_')}`"
