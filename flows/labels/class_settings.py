"""Keep `data.classes` of params.yaml in step with a change of the classes."""

from collections.abc import Sequence

from tasks.common.errors import EvergreenError
from tasks.common.params import parse_params, parse_text
from tasks.labels.changes import Change
from tasks.labels.taxonomy import Taxonomy


def listed_after(listed: Sequence[str], change: Change, undone: Change | None, after: Taxonomy) -> list[str]:
    """data.classes after `change`; undone: the change that it takes back. `listed`: before, in the names of then."""
    if change.kind == "add":
        return [*listed, *change.new]
    if undone is None:
        return after.current(listed)
    found: list[str] = []
    for name in listed:
        found += undone.old if name in undone.new else [name]
    if undone.kind == "retire":
        found += undone.old
    return list(dict.fromkeys(found))


def with_classes(text: str, classes: Sequence[str]) -> str:
    """The text of params.yaml with data.classes set to `classes`. Every other line stays as it is.

    Raises EvergreenError where the lines cannot be told apart, with the line to write by hand.
    """
    from ruamel.yaml import YAML

    values = parse_text(text)
    wanted = f"  classes: [{', '.join(map(_quoted, classes))}]"
    lines = text.splitlines(keepends=True)
    data = YAML(typ="rt").load(text)["data"]
    start = data.lc.key("classes")[0]
    later = [data.lc.key(name)[0] for name in data if data.lc.key(name)[0] > start]
    after = min(later, default=None)
    if after is None:
        after = next(
            (n for n in range(start + 1, len(lines)) if lines[n].strip() and not lines[n][0].isspace()), len(lines)
        )
    while after > start + 1 and (not lines[after - 1].strip() or lines[after - 1].lstrip().startswith("#")):
        after -= 1  # comments before the next key stay
    changed = "".join([*lines[:start], f"{wanted}\n", *lines[after:]])
    values["data"]["classes"] = list(classes)
    try:
        same = parse_params(parse_text(changed)) == parse_params(values)
    except EvergreenError:
        same = False
    if not same:
        raise EvergreenError(
            f"data.classes in params.yaml cannot be changed line by line: write\n{wanted}\nthere by hand"
        )
    return changed


def _quoted(name: str) -> str:
    """A YAML scalar on one line that reads as exactly `name`."""
    import json

    return json.dumps(name, ensure_ascii=False)
