"""Remove traces of erased images from pages, JSON, tables and plain text, and nothing else.

What goes is the smallest part that is about the image: a tile or row of a page, an entry of a list, a record of a
table. In other text the trace itself is blanked. A picture that only looks like an erased one stays where the same part
names another image: two frames of one camera look alike.
"""

import json
from collections import Counter
from html.parser import HTMLParser
from typing import Any, NamedTuple

from tasks.erasure.traces import Search

BLANK = b"[erased]"
NO_PICTURE = b"data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="
PARTS = ("figure", "tr", "li")  # elements of a page that are about one image, besides class "tile"
VOID = frozenset(["area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"])
_GONE = object()


class Cleaned(NamedTuple):
    """What was found, by how, and what is left; `rest` is the unchanged content if nothing was found."""

    hits: Counter
    rest: bytes


def clean_page(content: bytes, search: Search) -> Cleaned:
    """An HTML page without the tiles, figures and rows of erased images."""
    if not (hits := search.text(content)):
        return Cleaned(Counter(), content)
    parts = _parts(content)
    cut: dict[tuple[int, int], bytes] = {}
    counted: Counter = Counter()
    for hit in hits:
        part = min((p for p in parts if p[0] <= hit.start and hit.end <= p[1]), key=lambda p: p[1] - p[0], default=None)
        about = content[slice(*part[:2])] if part else b""
        if hit.how == "picture" and search.other_ids(about):
            continue
        counted[hit.how] += 1
        if part is not None:
            cut[part[:2]] = b'<div class="tile">erased on request</div>' if part[2] == "tile" else b""
        else:
            cut[hit.start, hit.end] = NO_PICTURE if hit.how in ("bytes", "picture") else BLANK
    return Cleaned(counted, _replaced(content, cut))


def clean_json(content: bytes, search: Search) -> Cleaned:
    """A JSON document without the entries of lists that are about erased images. Raises ValueError if it is not one."""
    value = json.loads(content)
    counted: Counter = Counter()
    rest = _without(value, search, counted)
    if not counted:
        return Cleaned(counted, content)
    indent = 2 if content.lstrip()[1:2] == b"\n" else None
    text = json.dumps(rest, indent=indent, ensure_ascii=False, sort_keys=indent is not None)
    return Cleaned(counted, text.encode() + (b"\n" if content.endswith(b"\n") else b""))


def clean_table(content: bytes, search: Search, quoted: bool = True) -> Cleaned:
    """A CSV file (`quoted`: a field in quotes may hold line breaks) or JSON lines, without records about erased images.

    All other records stay byte for byte.
    """
    counted: Counter = Counter()
    kept = []
    for record in _records(content) if quoted else content.splitlines(keepends=True):
        found = _hits_of(record, search)
        counted.update(found)
        if not found:
            kept.append(record)
    return Cleaned(counted, b"".join(kept) if counted else content)


def clean_text(content: bytes, search: Search) -> Cleaned:
    """Plain text with the traces overwritten by as many letters x, so that a process may go on appending to it."""
    hits = search.text(content)
    cut = {(hit.start, hit.end): b"x" * (hit.end - hit.start) for hit in hits}
    return Cleaned(Counter(hit.how for hit in hits), _replaced(content, cut))


def _hits_of(part: bytes, search: Search) -> list[str]:
    """How `part` of a document is about an erased image."""
    found = [hit.how for hit in search.text(part)]
    if set(found) == {"picture"} and search.other_ids(part):
        return []
    return found


def blank_text(text: str, search: Search) -> str:
    """`text` with every trace blanked."""
    return _blanked(text, search, Counter())


def _without(value: Any, search: Search, counted: Counter, field: str = "", listed: bool = False) -> Any:
    """`value` of `field` without traces; _GONE for an entry of a list (`listed`) that is about an erased image."""
    if isinstance(value, list):
        kept = [_without(entry, search, counted, field, True) for entry in value]
        return [entry for entry in kept if entry is not _GONE]
    if isinstance(value, dict):
        if listed and (found := _about(value, search)):
            counted.update(found)
            return _GONE
        counted.update("id" for key in value if search.is_id(key))
        return {
            _blanked(key, search, counted): _without(entry, search, counted, key)
            for key, entry in value.items()
            if not search.is_id(key)
        }
    if not isinstance(value, str):
        return value
    if how := search.named(value, field):
        counted[how] += 1
        return _GONE if listed else BLANK.decode()
    return _blanked(value, search, counted)


def _about(entry: dict, search: Search) -> list[str]:
    """How a dict in a list is about an erased image: one of its own values, or of dicts in it, is its id or picture."""
    values, found = [entry], []
    while values:
        for field, value in values.pop().items():
            if isinstance(value, dict):
                values.append(value)
            elif isinstance(value, str) and (how := search.named(value, field)):
                found.append(how)
            elif isinstance(value, str) and value.startswith("data:image/"):
                found += [hit.how for hit in search.text(value.encode())]
    if set(found) == {"picture"} and search.other_ids(json.dumps(entry).encode()):
        return []
    return found


def _blanked(text: str, search: Search, counted: Counter) -> str:
    content = text.encode("utf-8", "surrogatepass")
    hits = search.text(content)
    if not hits:
        return text
    counted.update(hit.how for hit in hits)
    cut = {(hit.start, hit.end): NO_PICTURE if hit.how in ("bytes", "picture") else BLANK for hit in hits}
    return _replaced(content, cut).decode("utf-8", "surrogatepass")


def _replaced(content: bytes, cut: dict[tuple[int, int], bytes]) -> bytes:
    """`content` with each of the spans `cut` replaced; a span inside of another one goes with it."""
    out, at = [], 0
    for (start, end), new in sorted(cut.items(), key=lambda one: (one[0][0], -one[0][1])):
        if start < at:
            continue
        out += [content[at:start], new]
        at = end
    return b"".join([*out, content[at:]])


def _records(content: bytes) -> list[bytes]:
    """The records of a CSV file with their line ends: a line break inside of quotes belongs to its record."""
    found, held = [], b""
    for line in content.splitlines(keepends=True):
        held += line
        if held.count(b'"') % 2 == 0:
            found.append(held)
            held = b""
    return [*found, held] if held else found


def _parts(content: bytes) -> list[tuple[int, int, str]]:
    """(start, end, "tile" or the tag) of every element that may be about one image."""
    parser = _Elements(content.decode("latin-1"))  # a byte a character, so that places are those of the bytes
    return parser.found


class _Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__(convert_charrefs=False)
        self.found: list[tuple[int, int, str]] = []
        self._open: list[tuple[str, int, str]] = []
        self._lines = [0]
        for line in text.split("\n"):
            self._lines.append(self._lines[-1] + len(line) + 1)
        self._text = text
        self.feed(text)
        self.close()

    def _at(self) -> int:
        line, column = self.getpos()
        return self._lines[line - 1] + column

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            return
        tile = "tile" in (dict(attrs).get("class") or "").split()
        self._open.append((tag, self._at(), "tile" if tile else tag if tag in PARTS else ""))

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        if tag not in [name for name, _, _ in self._open]:
            return
        while True:
            name, start, kind = self._open.pop()
            if name == tag:
                break
        if kind:
            self.found.append((start, self._text.index(">", self._at()) + 1, kind))
