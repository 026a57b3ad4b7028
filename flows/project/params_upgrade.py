"""An older params.yaml in today's names; values, comments and order stay."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from flows.project.create import render_section
from tasks.common.errors import ParamsError
from tasks.common.params import STAGE_SECTIONS, Params, parse_params, parse_text

RENAMED = {("images", "size"): "resolution"}  # (section, old key) -> new key
# What Evergreen shipped and `evergreen init` wrote, and has another default now: (section, key) -> (value, now, why)
SHIPPED = {
    ("gate", "first_model"): (
        {"test.balanced_accuracy": 0.5},
        "null",
        "the old default, not a floor of yours: a weak first model is now provisional. Write it again to keep it a "
        "floor",
    )
}
HEADER_NOW = ("The schema is tasks/params.py.", "The schema is tasks/common/params.py.")  # as `evergreen init` wrote it


class Migrated(NamedTuple):
    """`problem` says why this Evergreen will still refuse `text`; it is empty where it will not."""

    text: str
    changes: list[str]  # one line each
    problem: str


def migrate_params(text: str) -> Migrated:
    """`text` of params.yaml for this Evergreen. Text that is not YAML stays as it is."""
    changes: list[str] = []
    try:
        values = parse_text(text)
        edits = [*_renames(text, changes), *_old_defaults(text, changes)]
        for start, end, new in sorted(edits, reverse=True):
            text = text[:start] + new + text[end:]
    except (ParamsError, yaml.YAMLError) as error:
        return Migrated(text, [], str(error))
    text = text.replace(*HEADER_NOW, 1)
    for name in STAGE_SECTIONS if isinstance(values, dict) else ():
        field = Params.model_fields["validate_" if name == "validate" else name]
        if name not in values and not field.is_required():  # DVC needs each section that a stage reads
            text = text.rstrip("\n") + "\n" + render_section(name, field.get_default(call_default_factory=True), {})
            changes.append(f"{name}: added with its defaults")
    try:
        parse_params(parse_text(text))
    except ParamsError as error:
        return Migrated(text, changes, str(error))
    return Migrated(text, changes, "")


def _renames(text: str, changes: list[str]) -> Iterator[tuple[int, int, str]]:
    """(start, end, new key) of every key in `text` that has another name now."""
    for section, content in _pairs(yaml.compose(text, Loader=yaml.SafeLoader)):
        keys = {key.value: key for key, _ in _pairs(content)}
        for (of, old), new in RENAMED.items():
            if of == section.value and old in keys and new not in keys:
                start, end = keys[old].start_mark, keys[old].end_mark
                changes.append(f"{of}.{old} is now {of}.{new} (line {start.line + 1}); its value stays")
                yield start.index, end.index, new


def _old_defaults(text: str, changes: list[str]) -> Iterator[tuple[int, int, str]]:
    """(start, end, new value) of every value in `text` that is as Evergreen shipped it and has another default now."""
    values = parse_text(text)
    for section, content in _pairs(yaml.compose(text, Loader=yaml.SafeLoader)):
        for key, value in _pairs(content):
            shipped, now, why = SHIPPED.get((section.value, key.value), (None, None, ""))
            if now is not None and values[section.value][key.value] == shipped:
                # a mapping over several lines ends where the next key begins: its last value ends before
                end = value.end_mark if value.flow_style else value.value[-1][1].end_mark
                changes.append(f"{section.value}.{key.value} is now {now} (line {key.start_mark.line + 1}): {why}")
                yield value.start_mark.index, end.index, now


def _pairs(node: Any) -> list:
    return node.value if isinstance(node, yaml.MappingNode) else []
