"""What an erasure looks for: ids, the owner's names, bytes, and what the pictures look like.

An id is found in full and as its first twelve or more digits, which is how pages show it. A key or path is found where
it stands alone: "3.png" is not found in "13.png". A picture is found by its bytes (their sha256 is the id) and by a
perceptual fingerprint: 16 x 16 colours of the image as it is, cropped, and padded. P fingerprints.
"""

import base64
import html
import json
import re
from collections.abc import Collection, Iterable
from functools import cached_property
from typing import NamedTuple

import numpy as np
from PIL import Image

from tasks.common.checks import Frozen
from tasks.common.files import sha256_bytes
from tasks.dataset.decode import Undecodable, decode, resize

SIDE = 16  # pixels of a fingerprint
NEAR = 4.0  # mean difference of two fingerprints of one picture, in levels of 0..255, at most
SHORTEST = 6  # characters of a key or path that is looked for inside of a text; shorter ones as a whole value only
FITS = ("squash", "crop", "pad")  # how a model's input is made from an image
MAX_PIXELS = 50_000_000
TOKEN = re.compile(rb"(?<![0-9A-Za-z])[0-9a-f]{12,64}(?![0-9A-Za-z])")
EMBEDDED = re.compile(rb"data:image/[\w.+-]{1,40};base64,([A-Za-z0-9+/=]+)")
BEFORE, AFTER = rb"(?<![\w.\x80-\xff-])", rb"(?![\w\x80-\xff-]|\.\w)"  # a name stands alone between these
NAMED = frozenset({"key", "path", "where", "file", "image", "name"})  # fields whose value may be a key or path alone


class Traces(Frozen):
    """Everything that is known about the images to erase."""

    ids: list[str]
    names: list[str] = []  # keys and paths that no other image has
    pictures: list[str] = []  # fingerprints, base64

    def searched_by(self) -> list[str]:
        """How places are searched, for the proof."""
        by = ["id", "sha256 of bytes"]
        return by + (["key or path"] if self.names else []) + (["look of embedded pictures"] if self.pictures else [])


class Hit(NamedTuple):
    """A trace in a text: content[start:end]."""

    start: int
    end: int
    how: str  # id | name | bytes | picture


class Search:
    """Looks for `traces` in texts and pictures."""

    def __init__(self, traces: Traces):
        self.traces = traces
        self.ids = frozenset(traces.ids)
        self.names = frozenset(traces.names)
        self._starts = {name[:12]: name for name in self.ids}
        self._seen: dict[bytes, str] = {}
        self.short = any(len(name) < SHORTEST for name in self.names)

    @cached_property
    def prints(self) -> np.ndarray:
        """(P, SIDE * SIDE * 3) float32."""
        rows = [np.frombuffer(base64.b64decode(text), np.uint8) for text in self.traces.pictures]
        return np.array(rows, np.float32).reshape(len(rows), SIDE * SIDE * 3)

    @cached_property
    def _patterns(self) -> list[tuple[bytes, re.Pattern]]:
        found = {form for name in self.names if len(name) >= SHORTEST for form in forms(name)}
        return [(form, re.compile(BEFORE + re.escape(form) + AFTER)) for form in sorted(found)]

    def without_looks(self) -> "Search":
        """The same, but pictures are compared by their bytes alone."""
        return Search(self.traces.model_copy(update={"pictures": []}))

    def is_id(self, token: str) -> bool:
        """Is `token` one of the ids, or the start of one as pages show it?"""
        full = self._starts.get(token[:12])
        return len(token) >= 12 and full is not None and full.startswith(token)

    def named(self, value: str, field: str = "") -> str:
        """ "id" if the whole `value` of a field is an id, "name" if it is a key or path in a field for those, or ""."""
        if self.is_id(value):
            return "id"
        return "name" if value in self.names and field in NAMED else ""

    def text(self, content: bytes) -> list[Hit]:
        """Every trace in `content`, by place; a picture that only looks alike is "picture"."""
        hits = [Hit(*m.span(), "id") for m in TOKEN.finditer(content) if self.is_id(m[0].decode())]
        for form, pattern in self._patterns:
            if form in content:
                hits += [Hit(*m.span(), "name") for m in pattern.finditer(content)]
        for m in EMBEDDED.finditer(content):
            if how := self._embedded(m[1]):
                hits.append(Hit(*m.span(), how))
        return sorted(hits)

    def other_ids(self, content: bytes) -> bool:
        """Does `content` name an image that is not erased?"""
        return any(not self.is_id(m[0].decode()) for m in TOKEN.finditer(content))

    def picture(self, content: bytes) -> str:
        """How an encoded picture is a trace: "bytes", "picture" or ""."""
        if sha256_bytes(content) in self.ids:
            return "bytes"
        if not len(self.prints):
            return ""
        try:
            found = fingerprints(content, FITS[:1])
        except Undecodable:
            return ""
        return "picture" if np.abs(self.prints - found).mean(axis=1).min() <= NEAR else ""

    def _embedded(self, text: bytes) -> str:
        """`picture` of a data URI's base64; pages repeat pictures, so each is decoded once."""
        if not self.ids:
            return ""
        key = text if len(text) < 200 else sha256_bytes(text).encode()
        if key not in self._seen:
            try:
                self._seen[key] = self.picture(base64.b64decode(text, validate=True))
            except ValueError:
                self._seen[key] = ""
        return self._seen[key]


def forms(name: str) -> set[bytes]:
    """How `name` may be written in a page, in JSON or in plain text."""
    escaped = {html.escape(name), html.escape(name).replace("&#x27;", "&#39;").replace("&quot;", "&#34;")}
    quoted = {json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1]}
    return {text.encode() for text in {name, *escaped, *quoted}}


def fingerprints(content: bytes, fits: Iterable[str] = FITS) -> np.ndarray:
    """(fits, SIDE * SIDE * 3) float32 fingerprints of an encoded picture. Raises Undecodable."""
    image = decode(content, MAX_PIXELS).convert("RGB")
    square = image.width == image.height
    rows = [resize(image, SIDE * 4, "squash" if square else fit) for fit in (["squash"] if square else fits)]
    small = [np.asarray(Image.fromarray(row).resize((SIDE, SIDE), Image.Resampling.BOX)) for row in rows]
    return np.array(small, np.float32).reshape(len(small), -1)


def encoded_prints(pictures: Iterable[bytes]) -> list[str]:
    """`Traces.pictures` of encoded images; one that cannot be decoded has none."""
    found: set[str] = set()
    for content in pictures:
        try:
            rows = fingerprints(content)
        except Undecodable:
            continue
        # a picture of one colour looks like every other: only its bytes and its names identify it
        kept = [row for row in rows if row.reshape(-1, 3).std(axis=0).max() > NEAR]
        found |= {base64.b64encode(row.astype(np.uint8).tobytes()).decode() for row in kept}
    return sorted(found)


def own_names(
    named: Collection[tuple[str, str]], ids: Collection[str], used: Collection[str] = ()
) -> tuple[list[str], int]:
    """(keys and paths of `ids` that identify them, how many do not).

    named: (name, id) of all images; used: names of classes, sources and groups. A name identifies nothing if it is one
    of these, if another image has it too, or if the path of another image ends with it.
    """
    wanted = {name for name, image in named if image in ids}
    others = {name for name, image in named if image not in ids}
    ends: dict[str, list[str]] = {}
    for other in others:
        ends.setdefault(other.rsplit("/", 1)[-1], []).append(other)
    own = set()
    for name in wanted - set(used):
        if not any(f"/{other}".endswith(f"/{name}") for other in ends.get(name.rsplit("/", 1)[-1], ())):
            own.add(name)
    return sorted(own), len(wanted - own)
