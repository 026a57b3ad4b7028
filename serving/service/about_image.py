"""What a client says about an image, checked: key, source, path and slices."""

import json
from collections.abc import Mapping
from typing import Any

from serving.service.contracts import Asked
from serving.service.problems import Problem
from tasks.common.cells import TEXT_LENGTH, is_encodable

FIELDS = ("key", "source", "path", "slices")
SLICES = 50  # of one image


def make_asked(image: bytes, about: Mapping[str, Any], limit: int) -> Asked:
    """The image with its fields. Raises Problem for one of a wrong type or length."""
    if len(image) > limit:
        raise Problem("body_too_large", f"the image has {len(image):,} bytes, {limit:,} is the limit")
    if unknown := sorted(set(about) - set(FIELDS)):
        raise Problem("bad_request", f"unknown fields {unknown[:10]}: expected some of {list(FIELDS)}")
    texts = {name: _text(name, about.get(name)) for name in ("key", "source", "path")}
    return Asked(image, **texts, slices=_slices(about.get("slices")))


def parse_slices(text: str) -> Any:
    """The JSON object in a header, parameter or form field."""
    return parse_json(text.encode("utf-8", "surrogatepass"), "slices")


def parse_json(content: bytes, what: str) -> Any:
    """JSON in UTF-8. Raises Problem."""
    try:
        return json.loads(content.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Problem("bad_json", f"{what} cannot be read as JSON: {error or 'it is nested too deeply'}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _text(name: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise Problem("bad_request", f"{name} is a {type(value).__name__}, expected text")
    if len(value) > TEXT_LENGTH or not is_encodable(value):
        raise Problem("bad_request", f"{name} has {len(value)} characters, at most {TEXT_LENGTH} of Unicode expected")
    return value


def _slices(value: Any) -> Mapping[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Problem("bad_request", 'slices are not an object, expected for example {"product": "A7"}')
    if len(value) > SLICES:
        raise Problem("bad_request", f"{len(value)} slices, at most {SLICES} expected")
    found = {}
    for name, one in value.items():
        text = _text(f"slice {name[:40]!r}", one)
        if _text("a slice's name", name) is None or text is None:
            raise Problem("bad_request", f"slice {name[:40]!r} is empty, expected a name and a value")
        found[name] = text
    return found
