"""Look for traces of erased images in every commit, tag and file that git holds, reachable or not.

Git's history is never rewritten here: clones and release tags refer to it. What is found is named with what to do.
"""

import subprocess
from pathlib import Path

from flows.erasure.places import LARGEST, Seen
from flows.repo.git import git
from tasks.erasure.files import look
from tasks.erasure.traces import Search

PLACE = "git history"


def search_git(root: Path, search: Search) -> Seen:
    """Read every object of the repository at `root`."""
    seen = Seen(PLACE)
    sizes, found = _listed(root), {}
    with subprocess.Popen(["git", "cat-file", "--batch"], cwd=root, stdin=-1, stdout=-1) as git_process:
        for name, (kind, size) in sizes.items():
            if kind == "tree":
                continue
            if size > LARGEST:
                seen.notes.append(f"object {name[:12]} of {size:,} bytes is too large to be searched")
                continue
            git_process.stdin.write(f"{name}\n".encode())
            git_process.stdin.flush()
            git_process.stdout.readline()
            content = git_process.stdout.read(size + 1)[:-1]
            seen.read += 1
            if hits := look(content, "", search).hits:
                found[name] = kind
                seen.count(hits, f"{kind} {name[:12]}")
        git_process.stdin.close()
    if found:
        seen.notes += _advice(root, found)
    return seen


def _listed(root: Path) -> dict[str, tuple[str, int]]:
    """Object -> (kind, bytes)."""
    form = "--batch-check=%(objectname) %(objecttype) %(objectsize)"
    lines = git(root, "cat-file", "--batch-all-objects", "--unordered", form).splitlines()
    return {name: (kind, int(size)) for name, kind, size in (line.split() for line in lines)}


def _advice(root: Path, found: dict[str, str]) -> list[str]:
    paths: dict[str, str] = {}
    for line in git(root, "rev-list", "--all", "--objects").splitlines():
        name, _, path = line.partition(" ")
        if name in found:
            paths[name] = path
    files = sorted({path for path in paths.values() if path})
    notes = []
    if files:
        shown = ", ".join(files[:5]) + (", ..." if len(files) > 5 else "")
        notes.append(
            f"committed files hold them ({shown}). Remove them from every clone and server: `git filter-repo "
            f"--invert-paths --path {files[0]}`, then `git push --force`; commits and release tags get other ids"
        )
    if any(found[name] != "blob" for name in found):
        notes.append("messages of commits or tags name them: `git filter-repo --replace-message FILE` rewrites these")
    if any(name not in paths and kind == "blob" for name, kind in found.items()):
        notes.append(
            "objects that no branch needs hold them: `git reflog expire --expire=now --all; git gc --prune=now`"
        )
    return notes
