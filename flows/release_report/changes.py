"""Compares a run's model with the champion, and lists the commands that reproduce it.

Data, labels, params, code and libraries are compared by what bundle.json and git record.
"""

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flows.publishing.outcomes import Ending
from flows.release_report import facts
from flows.repo.git import git
from flows.repo.remotes import private_config
from tasks.common.errors import EvergreenError
from tasks.common.files import parse_yaml, read_json
from tasks.labels.taxonomy import Taxonomy, read_taxonomy
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

LISTED = 60  # changed params, classes and commits in the lists


def changes(root: Path, about: dict, old: dict | None, champion: Pointer | None) -> dict[str, Any] | None:
    """Data, labels, params, code and libraries against the champion; None if there is no champion."""
    if old is None or champion is None:
        return None
    images, before = about["data"]["images"], old.get("data", {}).get("images", {})
    splits = [(split, sum(before.get(split, {}).values()), sum(images[split].values())) for split in images]
    classes = class_counts(before.get("train", {}), images["train"], read_taxonomy(root / "data"))
    known = _batches_of(root, champion.git_rev)
    path = ("metrics", "clean", "actions")
    batches = [
        batch | {"new": known is not None and batch["batch"] not in known}
        for batch in read_json(root / "artifacts/validate/result.json")["batches"]
    ]
    gone = sorted((known or set()) - {batch["batch"] for batch in batches})
    return {
        "splits": splits,
        "classes": sorted(classes, key=lambda row: -abs(row[2] - row[1]))[:LISTED],
        "batches": list(reversed(batches)),
        "batches_known": known is not None,
        "gone": gone,
        "labels": facts.differences(
            *(
                {action: count for action, count in (at(one, path) or {}).items() if action != "keep"}
                for one in (old, about)
            )
        ),
        "params": facts.differences(old.get("params", {}), about["params"])[:LISTED],
        "versions": facts.differences(old.get("versions", {}), about["versions"]),
        "commits": _commits(root, old.get("git_revision"), about["git_revision"]),
        "same_data": old.get("data", {}).get("sha256") == about["data"]["sha256"],
    }


def class_counts(before: Mapping[str, int], now: Mapping[str, int], taxonomy: Taxonomy) -> list[tuple[str, int, int]]:
    """(class, images before, images now), in the names of today: classes may have been renamed or merged."""
    counts: Counter[str] = Counter()
    for name, count in before.items():
        counts[taxonomy.rename(name)] += count
    return [(name, counts[name], now.get(name, 0)) for name in dict.fromkeys([*now, *counts])]


def _batches_of(root: Path, rev: str) -> set[str] | None:
    """Ids of the batches in the data of commit `rev` without tombstoned ones; None if they cannot be read."""
    try:
        md5 = parse_yaml(git(root, "show", f"{rev}:data.dvc"))["outs"][0]["md5"]
        tombstoned = json.loads(git(root, "show", f"{rev}:tombstones.json"))
        from dvc.repo import Repo

        with Repo(str(root), config=private_config(root) or None) as repo:
            listing = json.loads(Path(repo.cache.local.oid_to_path(md5)).read_text())
    except Exception:  # an adopted model, a shallow clone, a cleared cache: the page says so
        return None
    names = [Path(entry["relpath"]) for entry in listing]
    found = {path.stem.partition("-")[2] for path in names if path.parts[0] == "batches" and path.suffix == ".json"}
    return found - set(tombstoned)


def _commits(root: Path, old: str | None, new: str | None) -> list[tuple[str, str]]:
    """(short hash, subject) of the commits between the two models, newest first."""
    if not old or not new or old == new:
        return []
    try:
        lines = git(root, "log", f"-{LISTED}", "--format=%h%x00%s", f"{old}..{new}").splitlines()
    except EvergreenError:
        return []
    return [tuple(line.split("\0", 1)) for line in lines if "\0" in line]


def commands(root: Path, about: dict, ending: Ending, champion: Pointer | None, releases: Releases) -> list[dict]:
    """[{"what", "lines"}]: shell commands that restore this model and its data, or train it again."""
    name, version = about["name"], ending.version
    live = next((one for one in reversed(releases.history()) if one.version == version), None)
    groups = []
    if live is not None:
        tree = shlex.quote(f"../{name}-{version}")
        groups.append(
            {
                "what": "This release, byte for byte: data, parameters, models",
                "lines": [
                    f"git worktree add --detach {tree} {live.git_rev}",
                    f"cd {tree}",
                    "dvc pull",
                    "dvc status          # up to date",
                ],
            }
        )
        groups.append({"what": "Train it again from scratch", "lines": ["dvc repro --force"]})
        if live.prev:
            groups.append(
                {
                    "what": f"Undo: make {live.prev} live again",
                    "lines": [f"evergreen rollback {shlex.quote(live.prev)}"],
                }
            )
    else:
        rev = about["git_revision"] or "HEAD"
        lines = [f"git worktree add --detach ../{name}-again {rev}", f"cd ../{name}-again", "dvc pull data.dvc"]
        groups.append({"what": "The same data and parameters, trained again", "lines": [*lines, "dvc repro"]})
        if champion is not None:
            groups.append(
                {
                    "what": f"What is live instead: {champion.version}",
                    "lines": [f"git worktree add --detach ../{name}-{champion.version} {champion.git_rev}"],
                }
            )
    tombstoned = sorted(read_json(root / "tombstones.json")) if (root / "tombstones.json").is_file() else []
    if tombstoned and live is None:
        groups[0]["lines"].insert(-1, f"# leave out the tombstoned batches: {' '.join(tombstoned)}")
    return groups


def at(value: Any, path: Sequence[str]) -> Any:
    """The leaf at `path` of nested mappings; None if it is missing."""
    for part in path:
        value = value.get(part) if isinstance(value, dict) else None
    return value
