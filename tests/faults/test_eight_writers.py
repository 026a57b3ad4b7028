"""Schedule, drift and people at once: eight processes on one pointer."""

from benchmarks import promotions
from tasks.common.params import StoreParams
from tests.faults.tier import sample


def test_eight_writers_lose_and_double_nothing(tmp_path):
    wrong, _ = promotions.race(StoreParams(url=str(tmp_path / "store")), 8, sample(5, 1000))
    assert wrong == 0
