"""Find images by what people call them: id, start of an id, the owner's key, or a file's path.

Rows are tables with the columns id, key and path (N rows); a text that names images of two ids names none.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

SHORTEST = 8  # characters of the start of an id
START = re.compile(rf"[0-9a-f]{{{SHORTEST},64}}")
SHOWN = 3  # ids in a message


@dataclass
class Named:
    """What texts name: text -> id, and text -> why it names none."""

    found: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)


def candidates(rows: pa.Table, texts: Collection[str]) -> np.ndarray:
    """(N,) bool: the rows that one of `texts` may name."""
    wanted = pa.array(sorted(set(texts)), pa.string())
    mask = pc.or_(_is_in(rows["id"], wanted), _is_in(rows["key"], wanted))
    mask = pc.or_(mask, _is_in(_file_names(rows["path"]), _file_names(wanted)))
    starts = defaultdict(list)
    for text in texts:
        if START.fullmatch(text) and len(text) < 64:
            starts[len(text)].append(text)
    for length, listed in starts.items():
        mask = pc.or_(mask, _is_in(pc.utf8_slice_codeunits(rows["id"], 0, length), pa.array(listed)))
    return mask.to_numpy(zero_copy_only=False) if isinstance(mask, pa.Array) else mask.to_numpy()


def name_images(rows: pa.Table, texts: Iterable[str]) -> Named:
    """The one image that each of `texts` names among `rows`: an exact id, key or path, else part of a path or id."""
    exact: dict[str, set[str]] = defaultdict(set)
    by_file: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows.select(["id", "key", "path"]).to_pylist():
        for name in (row["id"], row["key"], row["path"]):
            if name:
                exact[name].add(row["id"])
        if row["path"]:
            by_file[row["path"].rsplit("/", 1)[-1]].append((row["path"], row["id"]))
    ids = sorted(set(rows["id"].to_pylist()))
    named = Named()
    for text in dict.fromkeys(texts):
        found = exact.get(text) or {
            image for path, image in by_file.get(text.rsplit("/", 1)[-1], ()) if same_file(path, text)
        }
        if not found and START.fullmatch(text):
            at = int(np.searchsorted(ids, text))
            found = {image for image in ids[at : at + SHOWN + 1] if image.startswith(text)}
        if len(found) == 1:
            (named.found[text],) = found
        elif found:
            shown = ", ".join(image[:12] for image in sorted(found)[:SHOWN])
            more = ", ..." if len(found) > SHOWN else ""
            named.refused[text] = f"{text[:70]!r} names several images ({shown}{more}): give the id of one"
        else:
            start = f"the start of one (at least {SHORTEST} characters)"
            named.refused[text] = f"{text[:70]!r} is not known as an id, {start}, a key or a path"
    return named


def same_file(path: str, text: str) -> bool:
    """Is one the end of the other? `text` may be an absolute path, or the file's name alone."""
    return f"/{path}".endswith(f"/{text}") or f"/{text}".endswith(f"/{path}")


def _file_names(paths):
    return pc.replace_substring_regex(paths, "^.*/", "")


def _is_in(column, wanted: pa.Array):
    return pc.is_in(column, wanted, skip_nulls=True)
