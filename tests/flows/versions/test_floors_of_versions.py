"""`evergreen floors`: what a floor says of models that exist, by their stored answers."""

import json
from datetime import UTC, datetime

import pytest

from flows.versions.floors import standings
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_bytes
from tasks.common.floors import Floor
from tasks.dataset.hard_set import write_changes
from tasks.dataset.shards import next_seq
from tests.support import released_project
from tests.support.released_project import evergreen


@pytest.fixture(scope="module")
def main(tmp_path_factory):
    return released_project.copy(tmp_path_factory.mktemp("floors"))


def test_every_version_is_judged_by_the_answers_that_its_run_stored(main):
    floors = [Floor(accuracy=0.999), Floor(class_="coat", recall=0.05)]
    found = standings(main, floors)
    assert [(one.name, one.live, one.why) for one in found] == [
        ("v0.3.0", True, ""),
        ("v0.2.0", False, ""),
        ("v0.1.0", False, ""),
    ]
    for one in found:
        accuracy, recall = one.checks
        assert (accuracy.name, recall.name) == ("floor.test.accuracy", "floor.class.coat.recall")
        right = round(accuracy.value * 1000)
        assert f"on {[18, 12, 6][found.index(one)]} images of the test set" in accuracy.detail
        assert accuracy.detail.startswith("unproven" if right == 1000 else ("missed", "below"))
    assert found[1].checks[0].value > found[0].checks[0].value  # v0.3.0 is made worse
    (only,) = standings(main, floors, ["v0.1.0"])
    assert only == found[2]
    assert standings(main, floors, ["run-3"])[0].checks == found[0].checks
    with pytest.raises(EvergreenError, match=r"'v9' is not a version or a run.*v0\.3\.0, v0\.2\.0"):
        standings(main, floors, ["v9"])


def test_a_marked_image_is_a_floor_of_every_version_that_answered_it(tmp_path):
    main = released_project.copy(tmp_path)
    marked = sha256_bytes(b"image bag 1 2")  # of the first batch, in the test split
    about = {"id": marked, "what": "never", "at": datetime(2026, 11, 21, tzinfo=UTC), "by": "ann", "origin": "chosen"}
    write_changes(main / "data", [about], next_seq(main / "data"))
    for one in standings(main, []):
        (check,) = one.checks
        assert check.name == f"floor.image.{marked[:12]}"
        assert check.detail.startswith(("met: answered correctly", "missed: answered wrongly"))
    said = evergreen(main, "floors")
    assert f"floor.image.{marked[:12]}: " in said
    assert "no floors" not in said


def test_the_command_tries_a_floor_beside_those_of_params_yaml(main):
    assert "no floors: write some to gate.floors" in evergreen(main, "floors")
    said = evergreen(main, "floors", "--floor", "class: coat, recall: 0.05", "v0.2.0")
    assert "v0.2.0\n" in said
    assert "floor.class.coat.recall: " in said
    params = main / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("  floors: []\n", "  floors:\n    - {class: coat, recall: 0.3}\n"))
    found = json.loads(evergreen(main, "floors", "--floor", "{accuracy: 0.2}", "--json"))
    params.write_text(text)
    assert [check["name"] for check in found[0]["checks"]] == ["floor.class.coat.recall", "floor.test.accuracy"]
    assert [one["live"] for one in found] == [True, False, False]
    assert "--floor 'class: coat': a floor has one figure" in evergreen(
        main, "floors", "--floor", "class: coat", code=1
    )
    said = evergreen(main, "floors", "--floor", "class: crack, recall: 0.5", "v0.1.0")
    assert "gate.floors names the class 'crack', there are bag, boot, coat" in said
    assert "add --preview" in evergreen(main, "approve", "run-3", "--floor", "accuracy: 0.5", code=1)
