"""Layouts: templates such as {site}/{class}/{name} that say what the parts of an image's path mean.

A template is written like the path, relative to the source, with fields in braces:

| field | meaning |
|---|---|
| {class}, {group}, {source}, {split}, {time}, {key} | what the sample has under this name |
| {name} | the file's own name, or a part of it |
| {*} | a part that means nothing |
| {**} | any number of whole folders, also none; at most once, before the file's name |
| any other name | a slice of that name |

`+` gives one part several meanings, and a repeated {group}, {source} or {key} is joined: `{class+group}/{group}_{*}`
says that 00017_00003.jpg in the folder "yield" belongs to the group yield/00017. A file's suffix need not be written.
Where a separator occurs more often than the template has it, the first field takes the rest: {group}_{*} reads a_b_7 as
group a_b. Matching takes linear time: each separator is searched once, from the right.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from string import Formatter
from typing import Any

from tasks.common.errors import DataError
from tasks.sources.fields import Unusable, split

ROLES = ("class", "group", "source", "split", "time", "key", "name")  # every other field is a slice
JOINED = ("group", "source", "key")  # may be repeated
IGNORED, FOLDERS = "*", "**"
LONGEST = 1000  # characters of a template
SUFFIX = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,4}$")
FIELD = re.compile(r"[^\W\d][\w -]{0,49}")
SYNTAX = 'expected e.g. "{class}/{name}" or "{site}/{class+group}/{group}_{*}"'


@dataclass(frozen=True)
class Part:
    """A folder's or file's name: literals[0], field, literals[1], field, ..., literals[-1]."""

    literals: tuple[str, ...]
    fields: tuple[tuple[str, ...], ...]  # names of each field; one fewer than literals

    def read(self, text: str) -> list[str] | None:
        """The text of each field; None if `text` does not fit."""
        first, last = self.literals[0], self.literals[-1]
        if not self.fields:
            return [] if text == first else None
        start, end = len(first), len(text) - len(last)
        if not text.startswith(first) or not text.endswith(last) or start >= end:
            return None
        values = []
        for literal in self.literals[-2:0:-1]:
            at = text.rfind(literal, start + 1, end - 1)
            if at < 0:
                return None
            values.append(text[at + len(literal) : end])
            end = at
        return [text[start:end], *reversed(values)]


@dataclass(frozen=True)
class Layout:
    """A parsed template."""

    template: str
    parts: tuple[Part, ...]
    folders_at: int | None  # index into `parts` before which any number of folders may stand

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of all fields that mean something, each once."""
        return tuple(dict.fromkeys(n for part in self.parts for names in part.fields for n in names if n != IGNORED))

    @property
    def slices(self) -> tuple[str, ...]:
        """Names of the slices."""
        return tuple(name for name in self.fields if name not in ROLES)

    def read(self, path: str) -> dict[str, str]:
        """Field -> text of a "/"-separated path. Raises Unusable (bad_path)."""
        names = path.split("/")
        least = len(self.parts)
        if len(names) < least or (len(names) > least and self.folders_at is None):
            raise self._misfit(path, f"it has {_folders(len(names) - 1)}, the layout {_folders(least - 1)}")
        if self.folders_at is not None:
            names = names[: self.folders_at] + names[len(names) - least + self.folders_at :]
        if not any("." in literal for literal in self.parts[-1].literals):
            names[-1] = SUFFIX.sub("", names[-1])
        found: dict[str, str] = {}
        for part, text in zip(self.parts, names, strict=True):
            values = part.read(text)
            if values is None:
                raise self._misfit(path, f"{text[:60]!r} is not like {_written(part)!r}")
            for fields, value in zip(part.fields, values, strict=True):
                for field in fields:
                    found[field] = f"{found[field]}/{value}" if field in found and field in JOINED else value
        found.pop(IGNORED, None)
        return found

    def _misfit(self, path: str, why: str) -> Unusable:
        return Unusable("bad_path", f"{path[:100]!r} does not fit the layout {self.template!r}: {why}")

    def example(self) -> str:
        """A path that fits."""
        names = [_written(part, lambda fields: "x" if fields == (IGNORED,) else fields[0]) for part in self.parts]
        return "/".join(names) + ("" if "." in names[-1] else ".jpg")


def sample_values(found: Mapping[str, str]) -> dict[str, Any]:
    """What `Layout.read` found as typed values of tasks.sources.source.Offered. Raises Unusable."""
    named = split(found.get("split"))
    return {
        "label": found.get("class"),
        "source": found.get("source"),
        "group": found.get("group"),
        "key": found.get("key"),
        "taken_at": found.get("time"),  # as written: tasks.sources.times reads it
        "split": (named,) if named else (),
        "slices": tuple(sorted((name, value) for name, value in found.items() if name not in ROLES)),
    }


def parse_layout(template: str) -> Layout:
    """Parse `template`. Raises DataError, which says what is wrong and shows an example."""
    if len(template) > LONGEST:
        raise DataError(f"the layout has {len(template)} characters, at most {LONGEST} are allowed: {SYNTAX}")
    texts = template.split("/")
    if "" in texts or texts[0] == ".":
        raise _wrong(template, "it must be relative to the source, without '/' at its ends or doubled")
    parts, folders_at = [], None
    for number, text in enumerate(texts):
        if text == f"{{{FOLDERS}}}":
            if folders_at is not None or number == len(texts) - 1:
                raise _wrong(template, "{**} may stand once, before the file's name: {class}/{**}/{name}")
            folders_at = number
        else:
            parts.append(_part(template, text))
    layout = Layout(template, tuple(parts), folders_at)
    if not layout.fields:
        raise _wrong(template, "it names no field")
    written = [name for part in parts for names in part.fields for name in names if name != IGNORED]
    for name in layout.fields:
        if written.count(name) > 1 and name not in JOINED:
            raise _wrong(template, f"{{{name}}} occurs twice; write {{*}} where it repeats")
    return layout


def _part(template: str, text: str) -> Part:
    literals, fields = [""], []
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise _wrong(template, f"{error} (write {{{{ and }}}} for braces in a path)") from None
    for literal, name, spec, conversion in pieces:
        literals[-1] += literal
        if name is None:
            continue
        if spec or conversion:
            raise _wrong(template, f"{{{name}...}} has ':' or '!' in it")
        if fields and not literals[-1]:
            raise _wrong(template, f"nothing separates {{{name}}} from the field before it")
        fields.append(tuple(_field(template, one) for one in name.split("+")))
        literals.append("")
    return Part(tuple(literals), tuple(fields))


def _field(template: str, name: str) -> str:
    if name == IGNORED or name in ROLES:
        return name
    if not FIELD.fullmatch(name):
        raise _wrong(template, f"{{{name}}} is not the name of a field")
    if meant := "class" if name == "label" else "".join(get_close_matches(name.lower(), ROLES, 1, 0.8)):
        raise _wrong(template, f"{{{name}}} would be a slice: write {{{meant}}} if you mean that, or another name")
    return name


def _wrong(template: str, why: str) -> DataError:
    return DataError(f"the layout {template[:200]!r} cannot be used: {why}; {SYNTAX}")


def _written(part: Part, show: Callable = lambda fields: f"{{{'+'.join(fields)}}}") -> str:
    pieces = [part.literals[0]]
    for fields, literal in zip(part.fields, part.literals[1:], strict=True):
        pieces += [show(fields), literal]
    return "".join(pieces)


def _folders(count: int) -> str:
    return "1 folder" if count == 1 else f"{count} folders"
