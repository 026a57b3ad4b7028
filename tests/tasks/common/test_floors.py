"""`gate.floors`: what a user may write, and what a mistake says."""

import pytest
import yaml

from tasks.common.errors import ParamsError
from tasks.common.floors import Floor, parse_floor
from tasks.common.params import GateParams, parse_params
from tests.support.checkout import ROOT

SHIPPED = yaml.safe_load((ROOT / "params.yaml").read_text())


def parsed(floors) -> GateParams:
    return parse_params(SHIPPED | {"gate": SHIPPED["gate"] | {"floors": floors}}).gate


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"class": "crack", "recall": 0.98}, "floor.class.crack.recall"),
        ({"class": "crack", "set": "hard", "precision": 0.9}, "floor.hard.class.crack.precision"),
        ({"accuracy": 0.9}, "floor.test.accuracy"),
        ({"set": "newest", "macro_f1": 0.5}, "floor.newest.macro_f1"),
        ({"slice": "light=dim", "accuracy": 0.8}, "floor.slice:light=dim.accuracy"),
        ({"slice": "worst", "accuracy": 0.8}, "floor.worst_slice.accuracy"),
        ({"source": "left", "balanced_accuracy": 0.7}, "floor.slice:source=left.balanced_accuracy"),
        ({"class": "crack", "source": "worst", "recall": 0.7}, "floor.worst_source.class.crack.recall"),
        ({"image": "3fa85f64"}, "floor.image.3fa85f64"),
        ({"cost": 0.2}, "floor.test.cost"),
    ],
)
def test_a_floor_has_a_figure_and_a_place(entry, code):
    (floor,) = parsed([entry]).floors
    assert floor.code == code
    assert floor.bound == next((entry[name] for name in entry if isinstance(entry[name], float)), 1.0)
    recorded = parsed([entry]).model_dump(mode="json", by_alias=True)  # as a bundle records it
    assert GateParams.model_validate(recorded).floors == [floor]
    text = ", ".join(f"{key}: {value}" for key, value in entry.items())
    assert parse_floor(text) == parse_floor(f"{{{text}}}") == floor


@pytest.mark.parametrize(
    ("floors", "said"),
    [
        ([{"class": "crack", "recal": 0.98}], "gate.floors.0.recal: there is no such key"),
        ([{"accuracy": 0.9}, {"class": "a", "recall": 98}], "gate.floors.1.recall: expected less than or equal to 1"),
        ([{"class": "a", "recall": 0}], "gate.floors.0.recall: expected greater than 0"),
        ([{"recall": 0.9}], "recall is of a class: write e.g. {class: NAME, recall: 0.9}"),
        ([{"class": "a"}], "a floor has one figure of recall, precision"),
        ([{"class": "a", "recall": 0.9, "precision": 0.9}], "found recall and precision"),
        ([{"class": "a", "accuracy": 0.9}], "of a class there is recall and precision, found accuracy"),
        ([{"set": "hrd", "accuracy": 0.9}], "expected 'test', 'newest' or 'hard'"),
        ([{"set": "hard", "source": "a", "accuracy": 0.9}], "in one place, found set and source"),
        ([{"slice": "dim", "accuracy": 0.9}], "slice 'dim': expected NAME=VALUE"),
        ([{"image": "3fa85f64", "accuracy": 0.9}], "a floor of an image has no figure"),
        ([{"image": "3fa85f64", "unproven": "hold"}], "right or wrong, never unproven"),
        ([{"image": 12345678}], "gate.floors.0.image: expected a valid string"),
        ([{"accuracy": 0.9}, {"set": "test", "accuracy": 0.8}], "test.accuracy has two floors: keep one"),
        ([{"accuracy": 0.9, "unproven": "reject"}], "expected 'hold' or 'warn'"),
        ({"crack": 0.9}, "gate.floors: expected a valid list"),
    ],
)
def test_a_mistake_says_what_is_expected(floors, said):
    with pytest.raises(ParamsError) as error:
        parsed(floors)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class: a", "has one figure"),
        ("recall >= 0.9", "recall >= 0.9: "),
        ("a: {", "cannot be read"),
        ("{a: 1}, b", "cannot be read"),
        ("recall: high", "recall: Input should be a valid number"),
    ],
)
def test_a_typed_floor_with_a_mistake_says_so(text, said):
    with pytest.raises(ValueError, match=":") as error:
        parse_floor(text)
    assert said in str(error.value)


def test_projects_without_floors_have_none():
    old = {name: value for name, value in SHIPPED["gate"].items() if name not in ("floors", "unproven")}
    gate = parse_params(SHIPPED | {"gate": old}).gate
    assert (gate.floors, gate.unproven) == ([], "warn")
    assert Floor(accuracy=0.5).unproven is None
