"""Two models on the same images: agreement, flips, rightness."""

import numpy as np
import pytest

from monitoring.live.two_models import Pair, Said, compare_answers


def said(label, confidence: float = 0.9, review: bool = False) -> Said:
    return Said(label, confidence, review)


def pair(number: int, old, new, truth=None) -> Pair:
    return Pair(f"{number:064x}", said(old, 0.8), said(new, 0.9), truth)


PAIRS = [pair(0, "a", "a", "a"), pair(1, "a", "b", "b"), pair(2, "a", "b"), pair(3, "b", "b", "b"), pair(4, "b", None)]


def test_agreement_and_flips_leave_out_what_one_model_cannot_read():
    found = compare_answers(PAIRS, confidence=0.98)
    assert (found.images, found.agree, found.agreement) == (4, 2, 0.5)
    assert found.low < 0.5 < found.high
    (flip,) = found.flips
    assert (flip.old, flip.new, flip.images, flip.examples) == ("a", "b", 2, [PAIRS[1].id, PAIRS[2].id])
    assert {one.name: (one.old, one.new, one.kept) for one in found.classes} == {"a": (3, 1, 1), "b": (1, 3, 1)}
    assert (found.old.unreadable, found.new.unreadable) == (0, 1)
    assert (found.old.confidence, found.new.confidence) == (pytest.approx(0.8), pytest.approx(0.9))


def test_rightness_is_compared_on_the_same_labelled_images():
    right = compare_answers(PAIRS, confidence=0.98).right
    assert (right.images, right.old, right.new, right.gained, right.lost) == (3, 2 / 3, 1, 1, 0)
    assert right.verdict == "equal"  # one image proves nothing
    many = [pair(n, "a", "b", "b") for n in range(30)]
    found = compare_answers(many, confidence=0.98)
    assert found.right.verdict == "better"
    assert found.right.p_better < 1e-6
    assert [(one.name, one.gained) for one in found.recalls] == [("b", 30)]


def test_near_copies_count_as_one_observation():
    many = [pair(n, "a", "b", "b") for n in range(30)]
    burst = compare_answers(many, confidence=0.98, groups=np.zeros(30, int))
    assert burst.right.p_better > 0.2
    assert compare_answers(many, confidence=0.98, groups=np.arange(30)).right.verdict == "better"


def test_answers_of_several_labels_agree_only_as_a_whole():
    pairs = [pair(0, ["a", "b"], ["b", "a"], ["a", "b"]), pair(1, ["a"], ["a", "b"], ["a"]), pair(2, [], [])]
    found = compare_answers(pairs, confidence=0.98)
    assert (found.images, found.agree) == (3, 2)
    assert (found.right.old, found.right.new) == (1, 0.5)


def test_no_image_at_all():
    found = compare_answers([], confidence=0.98)
    assert (found.images, found.agreement, found.right, found.flips) == (0, None, None, [])
