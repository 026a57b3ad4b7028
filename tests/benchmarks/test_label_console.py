"""The benchmark of labelling by keyboard: a killed browser, an undo and a finish."""

from benchmarks.label_console import main


def test_no_acknowledged_answer_is_lost_and_a_sitting_is_one_commit():
    found = main(quick=True)
    assert (found["lost"], found["wrong"], found["commits"]) == (0, 0, 1)
