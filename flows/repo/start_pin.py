"""The pin of a training's start: `train_backbone.start_bundle`, of a workspace or of a commit."""

import re
from pathlib import Path

from flows.repo.objects import yaml_at
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path
from tasks.common.params import read_values
from tasks.common.paths import main_checkout

STAGE = "train_backbone"


def pinned_at(root: Path, rev: str) -> str | None:
    """The bundle that the training of commit `rev` started from."""
    return (yaml_at(main_checkout(root), rev, "params.yaml").get(STAGE) or {}).get("start_bundle")


def write_pin(root: Path, bundle: str | None) -> None:
    """Set train_backbone.start_bundle in params.yaml at `root`, and leave the rest of the text as it is."""
    file = root / "params.yaml"
    text = file.read_text(encoding="utf-8")
    changed = with_pin(text, bundle)
    if changed != text:
        with atomic_path(file, tracked=True) as temporary:
            temporary.write_text(changed, encoding="utf-8")
    if (read_values(file).get(STAGE) or {}).get("start_bundle") != bundle:
        raise EvergreenError(
            f"{file}: the start of the training cannot be written under train_backbone: write the section in lines of "
            "its own (`start_bundle: null` below `train_backbone:`)"
        )


def with_pin(text: str, bundle: str | None) -> str:
    """`text` of params.yaml with train_backbone.start_bundle set. Without the key, null adds none."""
    value = bundle or "null"
    section = re.search(
        r"^train_backbone:[ \t]*(?:#[^\n]*)?\n(?:(?:[ \t#][^\n]*)?\n)*(?:[ \t][^\n]*)?", text, re.MULTILINE
    )
    if section is None:
        return text
    found = re.search(r"^([ \t]+start_bundle:[ \t]*)([^\s#]+)", section[0], re.MULTILINE)
    if found is not None:
        start = section.start() + found.start(2)
        return text[:start] + value + text[start + len(found[2]) :]
    if bundle is None:
        return text
    first = re.search(r"^([ \t]+)[^\s#]", section[0], re.MULTILINE)
    at = section.start() + section[0].index("\n") + 1
    return f"{text[:at]}{first[1] if first else '  '}start_bundle: {value}\n{text[at:]}"
