"""What a rejected first model's user is told to do, from the checks that failed and the facts about the run."""

import numpy as np
import pytest

from flows.publishing.outcomes import Ending
from flows.publishing.remedies import Facts, remedies, table_remedies
from tasks.common.checks import Check
from tasks.scoring.skill import Skill

UNSHOWN = Skill(0.4, 0.15, 0.68, 0.2, images=15, groups=15)
SHOWN = Skill(0.5, 0.4, 0.6, 0.2, images=80, groups=80)
CHANCE = Skill(0.21, 0.12, 0.33, 0.2, images=80, groups=80)
EVEN = {name: 20 for name in "abcde"}


def facts(**changes) -> Facts:
    images = {"train": EVEN, "calibration": {name: 3 for name in EVEN}, "test": {name: 3 for name in EVEN}}
    known = {"images": images, "test": UNSHOWN, "calibration": SHOWN, "unseen": SHOWN, "side": 64.0, "resolution": 64}
    return Facts(run_id="run-1", **known | changes)


def failed(name: str = "test.skill", **more) -> Check:
    return Check(name=name, status="fail", **{"value": 0.4, "bound": 0.2, "detail": "not shown"} | more)


def kinds(*checks: Check, **changes) -> list[str]:
    return [one.kind for one in remedies(checks, facts(**changes))]


def test_nothing_failed_nothing_to_do():
    assert remedies([Check(name="size_mb", status="pass")], facts()) == []


def test_few_images_need_labels_and_say_how_many():
    first, *_, last = remedies([failed()], facts())
    assert first.kind == "labels"
    assert "label about 260 more images" in first.text  # the interval is wide: three times as many
    assert "you have 130" in first.text
    assert "`evergreen ingest FOLDER`, then `evergreen retrain`" in first.text
    assert last.kind == "override"
    assert '`evergreen promote run-1 --override --why "..."`' in last.text


def test_rare_classes_are_named_first():
    train = EVEN | {"e": 4}
    images = {"train": train, "calibration": dict.fromkeys(EVEN, 1), "test": dict.fromkeys(EVEN, 1)}
    (labels,) = (one for one in remedies([failed()], facts(images=images)) if one.kind == "labels")
    assert labels.classes == ["e"]
    assert "first of e" in labels.text
    images = {"train": EVEN | {"e": 2}, "calibration": EVEN | {"e": 0}, "test": EVEN | {"e": 1}}
    first = remedies([failed()], facts(images=images))[0]
    assert (first.kind, first.classes) == ("classes", ["e"])
    assert '`data.classes: ["a", "b", "c", "d"]` in params.yaml' in first.text


def test_few_groups_need_groups_not_images():
    few = Skill(0.6, 0.1, 0.95, 0.2, images=60, groups=5)
    first = remedies([failed()], facts(test=few))[0]
    assert first.kind == "groups"
    assert "60 test images are 5 groups" in first.text


def test_labels_that_do_not_go_with_the_images_are_checked_first():
    first = remedies([failed()], facts(unseen=CHANCE))[0]
    assert first.kind == "check_labels"
    assert "balanced accuracy of 0.21" in first.text
    assert "evergreen init NEW_PROJECT --data CORRECTED" in first.text


def test_details_that_the_input_loses_are_said():
    assert "resolution" in kinds(failed(), side=200.0)
    assert "resolution" not in kinds(failed(), side=80.0)
    (larger,) = (one for one in remedies([failed()], facts(side=200.0)) if one.kind == "resolution")
    assert "`images.resolution: 96`" in larger.text


def test_a_floor_of_the_users_own_comes_with_the_way_round_it():
    floor = failed("test.macro_f1", detail="first model: 0.4, at least 0.6")
    first, second, last = remedies([floor], facts())
    assert "`gate.first_model: null` in params.yaml" in first.text
    assert (second.kind, last.kind) == ("labels", "override")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("test.debiased_ece", "`gate.max_ece: 0.3`"),
        ("corruptions.blur.kept", "take blur out of `evaluate.corruptions`"),
        ("latency_ms.p99", "`gate.max_latency_ms`"),
        ("size_mb", "`gate.max_size_mb`"),
        ("class_collapse", "`evergreen ingest FOLDER`"),
    ],
)
def test_every_bound_that_can_break_has_a_remedy(name, said):
    first, last = remedies([failed(name)], facts())
    assert said in first.text
    assert last.kind == "override"


def test_an_error_leaves_a_persons_decision():
    assert kinds(Check(name="parity.max_difference", status="error")) == ["override"]


def support(split: str, name: str, value: int) -> Check:
    status = "pass" if value >= 1 else "fail"
    return Check(name=f"support.{split}.{name}", status=status, value=value, bound=1)


def test_a_refused_table_comes_with_remedies_too():
    checks = [support("train", name, 5) for name in ("a", "b.c", "d")] + [support("test", "b.c", 0)]
    labels, classes = table_remedies(checks)
    assert labels.classes == classes.classes == ["b.c"]
    assert "Label more images of b.c" in labels.text
    assert "too few images in test" in classes.text
    assert '`data.classes: ["a", "d"]` in params.yaml' in classes.text
    rows = Check(name="rows", status="fail", value=20, bound=50)
    assert "label about 45 more" in table_remedies([rows])[0].text
    assert [one.kind for one in table_remedies([*checks[1:], checks[0].model_copy(update={"status": "fail"})])] == [
        "labels"
    ]


def test_many_troubles_give_three_remedies():
    checks = [failed(), failed("test.debiased_ece"), failed("corruptions.dark.kept"), failed("class_collapse")]
    found = remedies(checks, facts(unseen=CHANCE, side=np.float64(300)))
    assert len(found) == 3
    ending = Ending(outcome="rejected", sentence="x", remedies=found)
    assert [line[:5] for line in ending.lines()] == ["  1. ", "  2. ", "  3. "]
    assert Ending.model_validate(ending.model_dump(mode="json")) == ending
