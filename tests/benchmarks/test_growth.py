"""The growth curves take start and imports off, and a quick pass of the script runs."""

import pytest

from benchmarks import growth, record
from benchmarks.processes import Usage


def used(cpu: float, tree: int) -> Usage:
    return Usage(wall=cpu, cpu=cpu, largest=tree, tree=tree, tree_private=tree, output="")


def test_the_exponent_is_that_of_what_grows():
    rows = {1_000: 2 + 0.1, 10_000: 2 + 1.0, 100_000: 2 + 10.0}
    found = {count: {"inspect": used(cpu, 90_000_000 + 300 * count)} for count, cpu in rows.items()}
    exponent, size = growth.figures_of(found)
    assert (exponent.name, size.name) == ("growth_inspect_exponent", "growth_inspect_bytes")
    assert exponent.value == pytest.approx(1, abs=1e-6)
    assert size.value == pytest.approx(300)


def test_a_quick_pass_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    growth.main(["--quick"])
    printed = capsys.readouterr().out
    assert "growth_ingest_exponent" in printed
    assert "growth_inspect_bytes" in printed
    assert not (tmp_path / "kept").exists()
