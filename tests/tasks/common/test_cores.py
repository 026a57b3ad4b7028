import threading

import pytest
from threadpoolctl import threadpool_info

from tasks.common import cores
from tasks.common.cores import on_all_cores


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def test_results_come_in_the_order_of_the_parts_whatever_ends_first():
    second_ended = threading.Event()

    def work(part: int) -> int:
        if part == 0:
            assert second_ended.wait(60)  # only a thread of its own can end the second one
        if part == 1:
            second_ended.set()
        return 10 * part

    assert list(on_all_cores(work, range(5))) == [0, 10, 20, 30, 40]


def test_blas_has_one_thread_meanwhile_and_gets_its_own_back():
    before = blas_threads()
    assert list(on_all_cores(lambda part: blas_threads(), [0])) == [{1}]
    assert blas_threads() == before


def test_an_error_of_a_part_is_raised_and_few_others_are_begun():
    begun = []

    def work(part: int) -> int:
        begun.append(part)
        if part == 1:
            raise ValueError("the second part")
        return part

    with pytest.raises(ValueError, match="the second part"):
        list(on_all_cores(work, range(100)))
    assert len(begun) < 10


def test_nobody_waits_for_parts_at_work_after_an_end():
    may_end = threading.Event()
    results = on_all_cores(lambda part: part == 0 or may_end.wait(600), range(3))
    assert next(results) is True
    results.close()  # as by Ctrl-C; pytest's time limit would end a wait
    may_end.set()
