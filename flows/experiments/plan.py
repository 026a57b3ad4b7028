"""Which experiments one command makes: a change, a grid, or settings drawn at random for a sweep.

The first is always the baseline: the settings as they are, on the same images, judged by the same gate.
"""

import itertools
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.experiments.settings import Choices, Range
from tasks.common.files import content_key

BASELINE: dict[str, Any] = {}
TRIES = 100  # draws in a row that a sweep has made before: then it has made all
LETTERS = 40  # of a name, without its key


def grid(change: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of `choices` (setting -> values), each with `change`."""
    for values in itertools.product(*choices.values()):
        yield dict(change) | dict(zip(choices, values, strict=True))


def sweep(change: Mapping[str, Any], choices: Mapping[str, Choices], seed: int) -> Iterator[dict[str, Any]]:
    """Draws from `choices`, each with `change`, until all were made. The same `seed` gives the same draws."""
    seen: set[str] = set()
    repeated = 0
    for number in itertools.count():
        rng = random.Random(f"{seed}:{number}")
        drawn = {
            setting: values.draw(rng) if isinstance(values, Range) else rng.choice(values)
            for setting, values in choices.items()
        }
        key = content_key(drawn)
        repeated = repeated + 1 if key in seen else 0
        if repeated > TRIES:
            return
        if key not in seen:
            seen.add(key)
            yield dict(change) | drawn


def experiment_key(inputs: str, changes: Mapping[str, Any], champion: str | None) -> str:
    """Changes with everything that decides the result: the inputs of HEAD, the changes, the champion's bundle."""
    return content_key("experiment", inputs, dict(changes), champion)[:24]


def name_of(changes: Mapping[str, Any], key: str) -> str:
    """A short name that DVC takes: what is changed, and the start of the key."""
    said = "-".join(f"{setting.rpartition('.')[2]}-{value}" for setting, value in changes.items()) or "as-set"
    plain = re.sub(r"[^0-9A-Za-z.]+", "-", said).strip("-.").replace("..", ".")
    return f"{plain[:LETTERS].rstrip('-.')}-{key[:6]}"


def spoken(changes: Mapping[str, Any]) -> str:
    """The changes as a person reads them."""
    return ", ".join(f"{setting}={value}" for setting, value in changes.items()) or "settings as they are"


def corners(change: Mapping[str, Any], choices: Mapping[str, Choices]) -> Iterator[dict[str, Any]]:
    """Each value or end of each of `choices` alone, with `change`: what a sweep may try, to be checked before it."""
    for setting, values in choices.items():
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            yield dict(change) | {setting: value}
