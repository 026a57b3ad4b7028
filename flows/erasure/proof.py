"""The proof of an erasure: every place searched, what it held before and after, what remains.

    .evergreen/erasures/<time>.json    the proof, and the same as text for people in <time>.md

It identifies no image: only hashes of ids, as in the ledger (tasks.ingest.erasures).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.erasure.places import SHOWN, Seen
from tasks.common.checks import Frozen
from tasks.common.files import atomic_path, read_json, write_json
from tasks.common.paths import state_dir
from tasks.erasure.documents import clean_text
from tasks.erasure.traces import Search, Traces
from tasks.ingest.erasures import hashed_id

SCHEMA = 1
FOLDER = "erasures"
MEANT = {"id": "id", "name": "key or path", "bytes": "sha256 of bytes", "picture": "look of a picture"}


class Line(Frozen):
    """One place of the proof."""

    place: str
    read: int  # files, rows or objects searched
    before: dict[str, int] = {}  # how -> traces
    after: dict[str, int] = {}
    files: list[str] = []  # that held traces before
    left: list[str] = []  # files that hold some now
    notes: list[str] = []  # what could not be searched, what remains, why, and what to do


class Proof(Frozen):
    """One erasure, or the search for images that were erased before."""

    version: int = SCHEMA
    at: str
    by: str
    why: str
    images: int
    hashes: list[str]  # of ids
    searched_by: list[str]
    lines: list[Line]
    notes: list[str] = []  # about places that no search reaches
    searched_at: str

    @property
    def left(self) -> int:
        """Traces that remain."""
        return sum(sum(line.after.values()) for line in self.lines)

    def sentence(self) -> str:
        """The result in one line."""
        before = sum(sum(line.before.values()) for line in self.lines)
        read = sum(line.read for line in self.lines)
        found = f"{before} trace(s) before, {self.left} after"
        return f"searched {len(self.lines)} places ({read} files, texts and objects): {found}"


def make_proof(about: dict[str, Any], traces: Traces, before: Sequence[Line], after: Sequence[Line], now: str) -> Proof:
    """Compare two searches of the same places. about: at, by and why of the erasure."""
    earlier = {line.place: line for line in before}
    lines = []
    for line in after:
        known = earlier.pop(line.place, Line(place=line.place, read=0))
        found = {"before": known.before, "files": known.files, "after": line.before, "left": line.files}
        lines.append(line.model_copy(update=found))
    lines += [line.model_copy(update={"notes": ["does not exist any more"]}) for line in earlier.values()]
    return Proof(
        at=about["at"], by=about["by"], why=about["why"], images=len(traces.ids),
        hashes=[hashed_id(image) for image in traces.ids], searched_by=traces.searched_by(), lines=lines,
        notes=list(about.get("notes", [])), searched_at=now,
    )  # fmt: skip


def as_line(seen: Seen, search: Search) -> Line:
    """A search as a line, without anything that identifies an image."""
    names = [clean_text(name.encode(), search).rest.decode() for name in seen.names[:SHOWN]]
    more = [f"... and {len(seen.names) - SHOWN} more"] if len(seen.names) > SHOWN else []
    return Line(place=seen.place, read=seen.read, before=seen.hits, files=[*names, *more], notes=seen.notes)


def write_proof(root: Path, proof: Proof) -> Path:
    """Store the proof; returns the file for people."""
    stem = "".join(letter for letter in proof.at if letter.isdigit())
    file = state_dir(root) / FOLDER / f"{stem}.json"
    write_json(file, proof.model_dump())
    with atomic_path(file.with_suffix(".md")) as temporary:
        temporary.write_text(as_text(proof), encoding="utf-8")
    return file.with_suffix(".md")


def proofs(root: Path) -> list[Proof]:
    """Every stored proof that can be read, oldest first."""
    found = []
    for file in sorted((state_dir(root) / FOLDER).glob("*.json")):
        try:
            found.append(Proof.model_validate(read_json(file)))
        except (OSError, ValueError):
            continue
    return found


def as_text(proof: Proof) -> str:
    """The proof as Markdown."""
    rows = [
        "# Erasure proof",
        "",
        f"- erased: {proof.at} by {proof.by}",
        f"- why: {json.dumps(proof.why, ensure_ascii=False)}",
    ]
    rows += [f"- images: {proof.images}", f"- searched by: {', '.join(proof.searched_by)}", f"- {proof.sentence()}", ""]
    rows += ["| place | read | before | after |", "|---|---|---|---|"]
    rows += [f"| {line.place} | {line.read} | {counts(line.before)} | {counts(line.after)} |" for line in proof.lines]
    for line in proof.lines:
        said = [*(f"still in {name}" for name in line.left), *line.notes]
        rows += ["", f"**{line.place}**", "", *(f"- {one}" for one in said)] if said else []
    rows += ["", "**Not searched**", "", *(f"- {note}" for note in proof.notes)] if proof.notes else []
    rows += [
        "",
        "Hashes of the ids (sha256 of `evergreen forgot ID`):",
        "",
        *(f"- `{one}`" for one in proof.hashes),
        "",
    ]
    return "\n".join(rows)


def counts(hits: dict[str, int]) -> str:
    """How many traces, by how they were found."""
    return ", ".join(f"{number} by {MEANT.get(how, how)}" for how, number in sorted(hits.items())) or "0"
