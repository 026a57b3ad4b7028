"""The metadata benchmark and the simulation of growth compute what they claim, and a quick pass of each runs."""

import pytest

from benchmarks import metadata, record, scale_model, scale_plan
from benchmarks.metadata import Measured
from benchmarks.scale_model import Costs, Life, Line, Machine, breaking_points, grow, money, prediction_errors

FLAT = Line(1.0, 1e-6)
COSTS = Costs(
    **dict.fromkeys(("hashing", "decode", "features", "train", "noise", "monitor"), 1e-3) | {"hashing": 1e-9},
    **dict.fromkeys(("listing", "split", "record", "workspace", "unchanged", "verify", "gc"), FLAT),
    near=Line(0.0, 1e-12, 2.0),
    metadata=500.0,
    memory_split=Line(0.0, 1000.0),
    memory_near=Line(0.0, 100.0),
)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder for recorded figures, which a quick pass must leave empty."""
    monkeypatch.setattr(record, "FOLDER", tmp_path / "kept")
    return tmp_path / "kept"


def test_a_line_goes_through_what_was_measured():
    line = Line.fit({100: 3.0, 200: 5.0})
    assert (line.fixed, line.each, line(400)) == pytest.approx((1.0, 0.02, 9.0))
    power = Line.fit({10: 1.0, 100: 100.0}, None)
    assert (power.power, power(1000)) == pytest.approx((2.0, 10_000.0))
    found = prediction_errors({"a": {1: 1.0, 10: 10.0, 100: 150.0}, "too few": {1: 1.0, 2: 2.0}}, {})
    assert found == pytest.approx({"a": 1.5})


def test_a_project_grows_ingest_by_ingest():
    life = Life(ingests=10, every=5, epochs=2, folds=1, answers=0)
    found = grow(COSTS, life, 100_000)
    assert found.ingest.parallel == pytest.approx(10)
    assert found.ingest.serial == pytest.approx(1.09 + 1.1 + 3 * 10_000 * scale_model.PHOTO * 1e-9)
    assert found.retrain.parallel == pytest.approx(50 + 300)
    assert found.objects == 10 * (10 + 2) + 2 * 2 * scale_model.STAGES
    assert found.total.parallel == pytest.approx(100 + 100 + 150 + 300)
    assert found.scratch.parallel == pytest.approx(100 + 100 + 300)
    more = grow(COSTS, life, 1_000_000)
    assert more.bytes == pytest.approx(10 * found.bytes)
    assert money(more, scale_plan.Prices(), Machine())["from scratch"] > 0


def test_what_breaks_first_comes_first():
    found = breaking_points(COSTS, Life(), Machine(memory=1e9, disk=1e18))
    assert found[0][0] == "memory of an ingest"
    assert found[0][1] == pytest.approx(1e6, rel=1e-3)
    assert [at for _, at in found] == sorted(at for _, at in found)
    near = dict(found)["near-duplicate search, a day"]
    assert near == pytest.approx((86_400 / 1e-12) ** 0.5, rel=1e-3)


def test_a_step_that_grows_with_the_rows_has_the_exponent_1():
    def of(cpu: float, peak: int) -> dict[str, Measured]:
        one = Measured(1, 1, 0, {})
        return {"uptodate": one, "listing": one, "split": Measured(9, cpu, peak, {})}

    sizes = {"shards": 100.0, "manifests": 1.0}
    found = metadata.figures_of({1000: (of(2, 10_000), sizes), 10_000: (of(11, 100_000), sizes)})
    figures = {figure.name: figure for figure in found}
    assert figures["metadata_split_exponent"].value == pytest.approx(1)
    assert "metadata_uptodate_exponent" not in figures
    assert figures["metadata_split_memory_per_image"].value == 10
    assert figures["metadata_bytes_per_image"].value == 101
    assert (figures["uptodate_1e4_s"].goal, figures["uptodate_1e3_s"].goal) == (2.0, None)


def test_a_quick_pass_of_metadata(kept, capsys):
    metadata.main(["--quick"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("metadata_bytes_per_image", "metadata_split_exponent", "uptodate"))
    assert not kept.exists()


def test_a_quick_pass_of_the_plan(kept, capsys):
    page = scale_plan.PAGE.read_text()
    scale_plan.main(["--quick"])
    out = capsys.readouterr().out
    assert all(name in out for name in ("scale_plan_error", "what breaks", "1,000,000,000 images"))
    assert not kept.exists()
    assert scale_plan.PAGE.read_text() == page
