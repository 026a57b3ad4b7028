"""Malformed images of every kind are caught, and odd but valid ones are taken, in the benchmark's quick pass."""

import pytest

from benchmarks import odd_images


@pytest.mark.filterwarnings("ignore")  # Pillow says what it finds strange
def test_malformed_images_are_caught_and_odd_ones_are_taken():
    assert len(odd_images.KINDS) == 40
    assert {figure.name: figure.value for figure in odd_images.run(quick=True)} == {
        "malformed_uncaught": 0,
        "valid_refused_rate": 0,
    }
