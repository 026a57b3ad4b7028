"""Every measure, check and metric that the sources name has a plain name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from monitoring.plain_names import known_name, plain_name
from tests.support.checkout import ROOT

PLACES = ("tasks/gate", "tasks/stages/validate", "monitoring/drift", "monitoring/decide.py")
NAMED = {  # function -> place of the argument that is a code
    "Finding": 0, "Check": 0, "_check": 0, "_share": 0, "_finding": 0, "Unusable": 0, "too_few": 0,
    "isolated": 0, "made": 0, "error": 0, "bound_of": 1, "_better_than_chance": 0,
    "_superior": 0, "not_worse": 0, "shares": 0,
}  # fmt: skip
FILLED = {"metric": "balanced_accuracy", "split": "test"}


def files() -> Iterator[Path]:
    for place in PLACES:
        path = ROOT / place
        yield from [path] if path.is_file() else sorted(path.rglob("*.py"))


def code(node: ast.expr) -> str | None:
    """The code that an argument spells, its variable parts filled in; None if it is a plain variable."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = [
            part.value if isinstance(part, ast.Constant) else FILLED.get(ast.unparse(part.value).split(".")[-1], "x")
            for part in node.values
        ]
        return "".join(parts)
    return None


def codes() -> set[str]:
    found = set()
    for file in files():
        for node in ast.walk(ast.parse(file.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in NAMED:
                continue
            named = [word.value for word in node.keywords if word.arg == "name"]
            arguments = named or node.args[NAMED[name] : NAMED[name] + 1]
            found |= {text for argument in arguments if (text := code(argument))}
    return found


def test_every_code_in_the_sources_has_a_plain_name():
    found = codes()
    assert {"ood.rate", "prediction.mix", "class_collapse", "null_labels", "cooldown", "test.skill"} <= found
    assert len(found) > 50
    assert sorted(text for text in found if known_name(text) is None) == []


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("ood.rate", "share of unfamiliar images"),
        ("missing.features", "missing features"),
        ("missing.exif_orientation", "missing stored orientation"),
        ("class.Ankle boot.v2.recall", "recall of class Ankle boot.v2"),
        ("slice:site=b.1.balanced_accuracy", "balanced accuracy on site=b.1"),
        ("test.balanced_accuracy.recomputed", "balanced accuracy on the test set, computed again"),
        ("corruptions.jpeg_quality.kept", "accuracy kept on images with jpeg quality"),
        ("corruptions.dark.accuracy", "accuracy on darkened images"),
        ("support.test.Bag", "test images of class Bag"),
        ("noise.Bag", "labels of class Bag that look wrong"),
        ("floor.class.Bag.recall", "floor: recall of class Bag"),
        ("floor.class.Bag.recall.kept", "floor: recall of class Bag, against the live model"),
        ("floor.hard.class.Bag.recall", "floor: recall of class Bag on the hard set"),
        ("floor.slice:site=b.1.class.Bag.recall", "floor: recall of class Bag on site=b.1"),
        ("floor.hard.accuracy", "floor: accuracy on the hard set"),
        ("floor.test.cost", "floor: mean cost of mistakes on the test set"),
        ("floor.worst_source.balanced_accuracy", "floor: balanced accuracy on the worst source"),
        ("floor.image.3fa85f64", "floor: image 3fa85f64 is right"),
        ("worst_source.balanced_accuracy", "balanced accuracy on the worst source"),
        ("hard.images", "images of the hard set answered correctly"),
        ("something.new_here", "something new here"),
    ],
)
def test_names(text, name):
    assert plain_name(text) == name


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("people.at_95.share", "images that people must see, to be 95 % right"),
        ("people.at_99.bound", "confidence from which the model answers alone, to be 99 % right"),
        ("conformal.set_length", "plausible classes of one image"),
        ("test.kappa", "Cohen's kappa on the test set"),
        ("hard.cost", "mean cost of mistakes on the hard set"),
    ],
)
def test_figures_of_a_model_have_plain_names(code, expected):
    assert plain_name(code) == expected
