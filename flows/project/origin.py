"""Which Evergreen a project's code came from: the tracked file evergreen.json.

`evergreen init` and `evergreen upgrade` write it. The next upgrade merges from there: `files` names the git object of
each file as Evergreen had it, whatever the user made of it since.

    {"evergreen": "0.2.0", "schema": 1, "template": "<commit of Evergreen>", "files": {"flows/cli/main.py": "<id>"}}

Most of these objects are in the project's history, because they were committed unchanged. An upgrade keeps those that
it merged with the user's changes under .evergreen-base/, so that a clone has them too.
"""

import json
import re
from pathlib import Path
from typing import Any

from flows.repo.git import git
from tasks.common.errors import EvergreenError, refuse_newer

NEEDED = (  # of the template's tracked files
    *("tasks/", "flows/", "monitoring/", "serving/"),
    *("prefect.yaml", "deploy/"),
    *("dvc.yaml", "pyproject.toml", "requirements.lock", "Makefile", "LICENSE", "NOTICE"),
    *(".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore"),
)
RECORD = "evergreen.json"
KEPT = ".evergreen-base/"  # Evergreen's own text of the files that an upgrade merged
SCHEMA_VERSION = 1
STARTED = "Start the project from Evergreen's template"  # subject of the commit that `evergreen init` makes
VERSION_FILE = "tasks/common/version.py"


def needed_files(template: Path) -> list[str]:
    """Tracked files of the checkout `template` that a project needs. Raises EvergreenError where some are missing."""
    tracked = git(template, "ls-files", "-z").split("\0")
    files = [name for name in tracked if name.startswith(NEEDED) and (template / name).is_file()]
    missing = [name for name in NEEDED if not any(found.startswith(name) for found in files)]
    if missing:
        raise EvergreenError(f"{template} is not a complete checkout of Evergreen: it lacks {', '.join(missing)}")
    return files


def template_revision(template: Path) -> str | None:
    """The commit checked out at `template`, with "+changes" where tracked files differ; None outside git."""
    try:
        if Path(git(template, "rev-parse", "--show-toplevel")).resolve() != template.resolve():
            return None
        changes = "+changes" if git(template, "status", "--porcelain", "--untracked-files=no") else ""
        return git(template, "rev-parse", "--verify", "HEAD") + changes
    except EvergreenError:
        return None


def evergreen_version(texts: dict[str, str]) -> str:
    """The version of Evergreen whose files are `texts` (path -> text): version.py, or pyproject.toml before 0.2."""
    for name, pattern in ((VERSION_FILE, r'^VERSION = "(.+)"'), ("pyproject.toml", r'^version = "(.+)"')):
        if found := re.search(pattern, texts.get(name, ""), re.MULTILINE):
            return found[1]
    return "unknown"


def version_at(folder: Path) -> str:
    """The version of the Evergreen code in `folder`."""
    files = {name: folder / name for name in (VERSION_FILE, "pyproject.toml")}
    return evergreen_version({name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()})


def record_text(version: str, template: str | None, files: dict[str, str]) -> str:
    """Text of evergreen.json."""
    about = {"evergreen": version, "schema": SCHEMA_VERSION, "template": template, "files": dict(sorted(files.items()))}
    return json.dumps(about, indent=1) + "\n"


def parse_record(text: str, where: str) -> dict[str, Any]:
    """evergreen.json as parsed. Raises EvergreenError for one that is damaged or of a newer Evergreen."""
    try:
        about = json.loads(text)
        refuse_newer(about.get("schema"), SCHEMA_VERSION, where)
        if all(isinstance(value, str) for value in about["files"].values()) and isinstance(about["evergreen"], str):
            return about
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise EvergreenError(
        f"{where} is damaged: expected {{evergreen, schema, template, files}}. `git log -- {RECORD}` shows who changed "
        "it; restore the version that `evergreen init` or `evergreen upgrade` wrote"
    )
