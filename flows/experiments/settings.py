"""What an experiment changes: settings given as text, and the params.yaml with them.

A change is {setting: value}, a setting a path such as `train_backbone.learning_rate`.
"""

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from tasks.common.errors import EvergreenError, ParamsError
from tasks.common.params import STAGE_SECTIONS, parse_params, parse_text

# The split is frozen, and each experiment is judged by the same gate.
FIXED = {
    "data": "the split of the images stays as it is in all experiments",
    "gate": "all experiments are judged by the same gate",
    "bundle": "it changes how a model is packed, and not the model",
}
SECTIONS = tuple(name for name in STAGE_SECTIONS if name not in FIXED)
LOGARITHMIC = 10.0  # a range whose ends differ by this factor is drawn from evenly in its logarithm


@dataclass(frozen=True)
class Range:
    """Values of a setting between `low` and `high`, whole numbers if both ends are."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> float | int:
        """One value."""
        if self.low > 0 and self.high / self.low >= LOGARITHMIC:
            value = self.low * (self.high / self.low) ** rng.random()
        else:
            value = rng.uniform(self.low, self.high)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return min(self.high, max(self.low, round(value)))
        return float(f"{value:.3g}")


Choices = list[Any] | Range


def parse_change(text: str) -> tuple[str, Any]:
    """`text`, "setting=value" with the value in YAML, as (setting, value). Raises EvergreenError."""
    setting, value = _divided(text, "train_backbone.learning_rate=0.003")
    return setting, _value(value, text)


def parse_choices(text: str) -> tuple[str, Choices]:
    """`text`, "setting=value,value" or "setting=low..high", as (setting, its values). Raises EvergreenError."""
    setting, values = _divided(text, "train_backbone.learning_rate=0.001,0.003 (or 0.001..0.01)")
    low, dots, high = values.partition("..")
    if not dots:
        return setting, _value(f"[{values}]", text)
    ends = _value(low, text), _value(high, text)
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends) or ends[0] >= ends[1]:
        raise EvergreenError(f"{text!r} is not a range: expected two numbers, the smaller one first, as in 0.001..0.01")
    return setting, Range(*ends)


def _divided(text: str, example: str) -> tuple[str, str]:
    setting, equals, value = text.partition("=")
    setting = setting.strip()
    section, dot, key = setting.partition(".")
    if not equals or not dot or not key or not value.strip():
        raise EvergreenError(f"{text!r} is not a setting with a value: expected e.g. {example}")
    if section in FIXED:
        raise EvergreenError(f"{setting} cannot be changed in an experiment: {FIXED[section]}")
    if section not in SECTIONS:
        known = ", ".join(SECTIONS)
        raise EvergreenError(f"{setting} changes no model: expected a setting of one of the sections {known}")
    return setting, value


def _value(text: str, whole: str) -> Any:
    try:
        return parse_text(text, whole)
    except ParamsError as error:
        raise EvergreenError(f"{whole!r} cannot be read: {error}") from None


def with_settings(text: str, changes: Mapping[str, Any]) -> str:
    """The text of params.yaml with `changes`. All other lines stay as they are.

    Raises ParamsError for a value or key that the schema refuses, EvergreenError for text that cannot be edited.
    """
    wanted = parse_text(text)
    for setting, value in changes.items():
        _put(wanted, setting.split("."), value)
    expected = parse_params(wanted, "params.yaml with these settings")
    for setting, value in changes.items():
        text = _edited(text, setting.split("."), value)
    try:
        same = parse_params(parse_text(text)) == expected
    except EvergreenError:
        same = False
    if not same:
        lines = "\n".join(f"  {setting}: {_flow(value)}" for setting, value in changes.items())
        raise EvergreenError(f"params.yaml cannot be changed line by line: write\n{lines}\nthere by hand")
    return text


def _put(values: Any, path: list[str], value: Any) -> None:
    for part in path[:-1]:
        if not isinstance(values.get(part), dict):
            values[part] = {}
        values = values[part]
    values[path[-1]] = value


def _edited(text: str, path: list[str], value: Any) -> str:
    """`text` with the value at `path` replaced, or added where it is not written out."""
    node, depth = yaml.compose(text, Loader=yaml.SafeLoader), 0
    while isinstance(node, yaml.MappingNode) and depth < len(path):
        found = next((inner for key, inner in node.value if key.value == path[depth]), None)
        if found is None:
            break
        node, depth = found, depth + 1
    for part in reversed(path[depth + 1 :]):
        value = {part: value}
    if depth == len(path):
        start, end = _extent(node)
        return f"{text[:start]}{_flow(value)}{text[end:]}"
    if depth == 0:
        return f"{text.rstrip(chr(10))}\n\n{path[0]}: {_flow(value)}\n"
    if not isinstance(node, yaml.MappingNode) or node.flow_style or not node.value:
        start, end = _extent(node)
        held = parse_text(text[start:end]) if isinstance(node, yaml.MappingNode) else {}
        return f"{text[:start]}{_flow((held or {}) | {path[depth]: value})}{text[end:]}"
    first = node.value[0][0].start_mark
    return f"{text[: first.index]}{path[depth]}: {_flow(value)}\n{' ' * first.column}{text[first.index :]}"


def _extent(node: yaml.Node) -> tuple[int, int]:
    """Where the text of `node` begins and ends: a block ends where its last value does."""
    last = node
    while isinstance(last, yaml.CollectionNode) and not last.flow_style and last.value:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    return node.start_mark.index, last.end_mark.index


def _flow(value: Any) -> str:
    """`value` on one line, as YAML that reads as exactly it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, str) and value.isidentifier() and parse_text(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
