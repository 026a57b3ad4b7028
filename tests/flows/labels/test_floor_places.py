"""Floors about something that does not exist are found before training starts."""

import pyarrow as pa
import pytest

from flows.labels.floor_places import Places, places, unknown_floors
from tasks.common.floors import Floor

KNOWN = Places(
    ["crack", "dent"], {"light=dim"}, {"left", "right"}, {"3fa85f64aa", "3fa85f64bb", "77"}, {"part 7"}, True
)


def test_what_exists_can_have_a_floor():
    floors = [
        Floor(class_="crack", recall=0.9),
        Floor(class_="dent", set="hard", precision=0.9),
        Floor(slice="light=dim", accuracy=0.5),
        Floor(slice="source=left", accuracy=0.5),
        Floor(slice="worst", accuracy=0.5),
        Floor(source="right", accuracy=0.5),
        Floor(source="worst", cost=0.5),
        Floor(image="3fa85f64a"),
        Floor(image="part 7"),
    ]
    assert unknown_floors(floors, KNOWN) == []


@pytest.mark.parametrize(
    ("floor", "said"),
    [
        (Floor(class_="crak", recall=0.9), "there is no class 'crak': is 'crack' meant?"),
        (Floor(class_="x", recall=0.9), "there is no class 'x': there are crack, dent"),
        (Floor(slice="light=din", accuracy=0.5), "no test image is of slice 'light=din': is 'light=dim' meant?"),
        (Floor(slice="source=up", accuracy=0.5), "no test image is of slice 'source=up': there are left, right"),
        (Floor(source="up", accuracy=0.5), "no test image is of source 'up': there are left, right"),
        (Floor(image="3fa8"), "image '3fa8': 2 ids begin like this: write more of it"),
        (Floor(image="part 8"), "image 'part 8': no test or hard image has this id or key"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(floor, said):
    assert unknown_floors([Floor(accuracy=0.5), floor], KNOWN) == [f"gate.floors.1: {said}"]


def test_without_hard_set_slices_or_sources_their_floors_are_refused():
    rows = [
        {"id": "a", "key": None, "split": "test", "source": None, "slice": []},
        {"id": "b", "key": "b", "split": "train", "source": "left", "slice": [{"name": "light", "value": "dim"}]},
    ]
    known = places(["crack"], pa.Table.from_pylist(rows))
    assert known == Places(["crack"], set(), set(), {"a"}, set(), False)
    floors = [Floor(set="hard", accuracy=0.5), Floor(slice="worst", accuracy=0.5), Floor(source="worst", accuracy=0.5)]
    assert unknown_floors(floors, known) == [
        "gate.floors.0: there is no hard set: `evergreen ingest --hard` makes one",
        "gate.floors.1: no test image has a slice",
        "gate.floors.2: no test image has a source",
    ]
