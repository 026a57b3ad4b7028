"""Publication: real git, real DVC, the real `gto`, and kills at every point.

A kill may fall anywhere: what is live is then the old version or the new one, whole, and starting again ends
with exactly one version of the bundle.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.publishing import registry
from flows.publishing.publish import Publication, publish, reconcile
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.common.files import sha256_file, write_json
from tasks.releases.pointer import Pointer
from tasks.releases.store import PointerMoved, Releases
from tasks.storage.local import LocalStore
from tests.support.checkout import ROOT
from tests.support.children import killed_at, start

NAME = "classifier"


def no_push() -> None:
    """For tests in which nothing is in DVC."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's repository: two commits, and work in progress that no command may touch."""
    main = tmp_path_factory.mktemp("template") / "main"
    main.mkdir()
    git(main, "init", "--quiet", "--initial-branch=main")
    for key, value in {"user.name": "Ann", "user.email": "ann@example.org", "tag.gpgSign": "true"}.items():
        git(main, "config", key, value)
    (main / "params.yaml").write_text("bundle: {name: classifier}\n")
    (main / "dvc.yaml").write_text("stages: {}\n")
    (main / "tombstones.json").write_text("{}\n")
    (main / ".gitignore").write_text("/.evergreen\n/artifacts\n")
    git(main, "add", ".")
    git(main, "commit", "--quiet", "-m", "first")
    (main / "notes.txt").write_text("mine\n")
    git(main, "add", "notes.txt")
    git(main, "commit", "--quiet", "-m", "second")
    (main / "notes.txt").write_text("edited\n")
    (main / "staged.txt").write_text("staged\n")
    git(main, "add", "staged.txt")
    (main / "untracked.txt").write_text("untracked\n")
    return main


class Project:
    """A copy of the template with a release store, and runs in worktrees of it."""

    def __init__(self, folder: Path):
        self.main = folder / "main"
        self.releases = Releases(LocalStore(folder / "store"))

    def run(self, run_id: str, content: str | None = None) -> Path:
        """The worktree a finished run leaves: its dvc.lock, metrics and bundle, made from `content`."""
        content = content or run_id
        tree = self.main / ".evergreen/runs" / run_id
        git(self.main, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        (tree / "dvc.lock").write_text(f"# {content}\n")
        write_json(tree / "metrics/evaluate.json", {"of": content})
        write_json(tree / "tombstones.json", {"b-bad": {"why": "flipped", "at": "2026-01-01", "by": "ann"}})
        bundle = tree / "artifacts/bundle"
        bundle.mkdir(parents=True)
        files = {}
        for name in ("model.onnx", "bundle.json"):
            (bundle / name).write_text(f"{name} of {content}")
            files[name] = {"sha256": sha256_file(bundle / name), "bytes": (bundle / name).stat().st_size}
        write_json(bundle / "MANIFEST.json", {"files": files})
        return tree

    def publish(self, tree: Path, expected: Pointer | None, push=no_push) -> Pointer:
        why = f"a run called {tree.name}"
        new = Publication(worktree=tree, name=NAME, run_id=tree.name, why=why, by="ann")
        return publish(new, self.releases, expected, push=lambda worktree: push())

    def checkout_state(self) -> tuple:
        """Everything of the user's that publishing must leave alone."""
        return (
            git(self.main, "rev-parse", "HEAD", "main"),
            git(self.main, "symbolic-ref", "HEAD"),
            git(self.main, "--no-optional-locks", "status", "--porcelain"),
            git(self.main, "diff", "--cached"),
            sha256_file(self.main / ".git/index"),
            git(self.main, "stash", "list"),
            {p.name: p.read_text() for p in self.main.iterdir() if p.is_file()},
        )

    def gto(self, *arguments: str) -> list[dict]:
        done = subprocess.run(
            [Path(sys.executable).parent / "gto", *arguments, "--json"], cwd=self.main, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Project:
    shutil.copytree(template, tmp_path / "main")
    return Project(tmp_path)


def digest_of(tree: Path) -> str:
    return sha256_file(tree / "artifacts/bundle/MANIFEST.json")


def tags_of(project: Project, bundle: str) -> list[str]:
    return [v for v, t in registry.versions(project.main, NAME).items() if t.trailer("Evergreen-Bundle") == bundle]


def assert_in_order(project: Project) -> None:
    """Store, branch and tags tell the same story."""
    history = project.releases.history()
    assert [p.seq for p in history] == list(range(1, len(history) + 1))
    stages = git(
        project.main, "for-each-ref", "--format=%(*objectname)", "--sort=version:refname", "refs/tags/*#prod#*"
    )
    assert stages.split() == [p.git_rev for p in history]
    versions = registry.versions(project.main, NAME)
    for pointer in history:
        assert versions[pointer.version].rev == pointer.git_rev
        assert versions[pointer.version].trailer("Evergreen-Bundle") == pointer.bundle
        git(project.main, "merge-base", "--is-ancestor", pointer.git_rev, "releases")
        project.releases.audit_bundle(pointer.bundle)
    assert not list((project.releases.store.root / ".tmp").iterdir())


def test_releases_in_git_and_the_users_checkout_untouched(project: Project):
    before = project.checkout_state()
    one, two = project.run("run-1"), project.run("run-2")
    first = project.publish(one, None)
    second = project.publish(two, first)
    assert (first.version, second.version, second.prev) == ("v0.1.0", "v0.2.0", "v0.1.0")
    assert project.releases.live() == second
    assert project.checkout_state() == before
    assert_in_order(project)

    head = git(project.main, "rev-parse", "HEAD")
    assert git(project.main, "rev-parse", "releases^1", "releases^2").split() == [first.git_rev, head]
    assert git(project.main, "rev-parse", "releases~1^@") == head
    assert git(project.main, "show", "releases:dvc.lock") == "# run-2"
    assert json.loads(git(project.main, "show", "releases:metrics/evaluate.json")) == {"of": "run-2"}
    assert "b-bad" in git(project.main, "show", "releases:tombstones.json")
    assert git(project.main, "show", "releases:notes.txt") == "mine"  # HEAD's, not the edit in progress
    assert "artifacts" not in git(project.main, "ls-tree", "--name-only", "releases")
    assert git(one, "status", "--porcelain").split("\n") == ["M tombstones.json", "?? dvc.lock", "?? metrics/"]


def test_gto_reads_what_was_published(project: Project):
    trees = [project.run(f"run-{n}") for n in range(3)]
    live = None
    for tree in trees:
        live = project.publish(tree, live)
    shown = project.gto("show")[NAME]
    assert (shown["version"], shown["stage"]) == ("v0.3.0", {"prod": "v0.3.0"})
    history = project.gto("history", NAME)
    events = [(row["event"], row["version"]) for row in history if row["event"] != "commit"]
    versions = ["v0.1.0", "v0.2.0", "v0.3.0"]
    assert sorted(events) == sorted([("registration", v) for v in versions] + [("assignment", v) for v in versions])
    assert [v for event, v in reversed(events) if event == "assignment"] == versions


def test_an_unchanged_champion_is_not_published_twice(project: Project):
    tree = project.run("run-1")
    first = project.publish(tree, None)
    assert project.publish(tree, None) == first
    assert project.publish(project.run("run-2", "run-1"), first) == first
    assert list(registry.versions(project.main, NAME)) == ["v0.1.0"]
    assert_in_order(project)


def test_a_run_judged_against_another_champion_must_judge_again(project: Project):
    one, two, three = (project.run(f"run-{n}") for n in (1, 2, 3))
    first = project.publish(one, None)
    second = project.publish(two, first)
    with pytest.raises(PointerMoved) as moved:
        project.publish(three, first)
    assert moved.value.current == second
    assert list(registry.versions(project.main, NAME)) == ["v0.1.0", "v0.2.0"]
    assert project.publish(three, second).version == "v0.3.0"
    assert_in_order(project)


def test_the_loser_of_a_race_keeps_its_version_for_the_next_try(project: Project):
    one, two, three = (project.run(f"run-{n}") for n in (1, 2, 3))
    first = project.publish(one, None)
    winners = []
    with pytest.raises(PointerMoved):  # run-3 gets through while run-2 pushes
        project.publish(two, first, push=lambda: winners.append(project.publish(three, first)))
    assert project.releases.live() == winners[0]
    assert tags_of(project, digest_of(two)) == ["v0.3.0"]
    again = project.publish(two, winners[0])
    assert (again.version, again.seq, again.prev) == ("v0.3.0", 3, "v0.2.0")
    assert tags_of(project, digest_of(two)) == ["v0.3.0"]
    assert_in_order(project)


def test_nothing_goes_live_when_the_push_fails(project: Project):
    def push() -> None:
        raise EvergreenError("no space left on the remote")

    tree = project.run("run-1")
    with pytest.raises(EvergreenError, match="no space"):
        project.publish(tree, None, push)
    assert project.releases.live() is None
    assert registry.versions(project.main, NAME) == {}
    assert project.publish(tree, None).version == "v0.1.0"
    assert git(project.main, "rev-list", "--count", "--first-parent", "releases", "^main") == "1"  # no second commit
    assert_in_order(project)


def publish_in_child(folder: str, run_id: str, late: str) -> None:
    """Publish over what is live; failpoint `late` is armed only after the push."""
    project = Project(Path(folder))
    tree = project.main / ".evergreen/runs" / run_id
    push = (lambda: os.environ.update({"EVERGREEN_FAILPOINT": late})) if late else no_push
    project.publish(tree, project.releases.live(), push)


def kill_points() -> list[tuple[str, str]]:
    """(point armed from the start, point armed after the push): every failpoint the code below has."""
    files = [
        "flows/publishing/publish.py",
        "tasks/releases/store.py",
        "tasks/releases/bundle_store.py",
        "tasks/storage/blobs.py",
    ]
    found = [point for file in files for point in re.findall(r'failpoint\("(.+?)"\)', (ROOT / file).read_text())]
    assert len(found) == len(set(found)) > 9
    late = [point for point in found if point in ("store.temporary", "store.placed", "store.swapped")]
    return [(point, "") for point in found if point != "store.swapped"] + [("", point) for point in late]


@pytest.mark.parametrize(("early", "late"), kill_points())
def test_killed_anywhere_it_is_before_or_after(project: Project, early: str, late: str):
    before = project.checkout_state()
    first = project.publish(project.run("run-1"), None)
    tree = project.run("run-2")
    assert killed_at(early, publish_in_child, str(project.main.parent), "run-2", late)

    live = project.releases.live()
    done = (early or late) in ("publish.promoted", "publish.assigned", "store.swapped") or late == "store.placed"
    assert live.bundle == (digest_of(tree) if done else first.bundle)
    project.releases.audit_bundle(live.bundle)

    reconcile(project.main, project.releases, NAME)
    assert_in_order(project)
    assert project.releases.live() == live
    assert reconcile(project.main, project.releases, NAME) == []

    again = project.run("run-3", "run-2")  # the next start makes the same bundle in another worktree
    second = project.publish(again, live)
    assert (second.seq, second.version, second.bundle) == (2, "v0.2.0", digest_of(tree))
    assert tags_of(project, digest_of(tree)) == ["v0.2.0"]
    assert_in_order(project)
    assert project.checkout_state() == before


def publish_until_through(folder: str, run_ids: list[str]) -> None:
    project = Project(Path(folder))
    for run_id in run_ids:
        while True:
            try:
                project.publish(project.main / ".evergreen/runs" / run_id, project.releases.live())
                break
            except PointerMoved:
                continue


def test_parallel_runs_all_get_through_one_by_one(project: Project):
    runs = [[f"run-{w}-{n}" for n in range(2)] for w in range(3)]
    trees = [project.run(run_id) for mine in runs for run_id in mine]
    writers = [start(publish_until_through, str(project.main.parent), mine) for mine in runs]
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    reconcile(project.main, project.releases, NAME)
    assert sorted(p.bundle for p in project.releases.history()) == sorted(digest_of(tree) for tree in trees)
    assert len({p.version for p in project.releases.history()}) == 6
    assert_in_order(project)
    assert project.gto("show")[NAME]["stage"]["prod"] == project.releases.live().version


def test_a_rollback_needs_only_a_pointer(project: Project):
    from tasks.releases.pointer import successor

    first = project.publish(project.run("run-1"), None)
    second = project.publish(project.run("run-2"), first)
    back = {"version": first.version, "git_rev": first.git_rev, "bundle": first.bundle}
    third = project.releases.promote(successor(second, run_id="rollback-1", by="ann", why="worse", **back))
    assert reconcile(project.main, project.releases, NAME) == ["tagged v0.1.0 as live (promotion 3)"]
    assert project.releases.live() == third
    assert project.gto("show")[NAME]["stage"]["prod"] == "v0.1.0"
    assert_in_order(project)


def test_without_an_identity_the_release_is_evergreens(project: Project, monkeypatch: pytest.MonkeyPatch):
    git(project.main, "config", "--unset", "user.name")
    git(project.main, "config", "--unset", "user.email")
    git(project.main, "config", "user.useConfigOnly", "true")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    pointer = project.publish(project.run("run-1"), None)
    assert git(project.main, "log", "-1", "--format=%an <%ae>", pointer.git_rev) == "evergreen <evergreen@localhost>"
    assert_in_order(project)


def test_a_checked_out_releases_branch_is_not_moved_under_the_user(project: Project):
    first = project.publish(project.run("run-1"), None)
    git(project.main, "worktree", "add", "--quiet", str(project.main.parent / "look"), "releases")
    with pytest.raises(EvergreenError, match=r"releases is checked out in .*look"):
        project.publish(project.run("run-2"), first)
    assert project.releases.live() == first
    git(project.main.parent / "look", "switch", "--quiet", "--detach")
    assert project.publish(project.run("run-3", "run-2"), first).version == "v0.2.0"


def test_a_releases_branch_of_the_users_own_is_left_alone(project: Project):
    git(project.main, "branch", "releases")
    before = git(project.main, "rev-parse", "releases")
    with pytest.raises(EvergreenError, match="was not made by Evergreen"):
        project.publish(project.run("run-1"), None)
    assert git(project.main, "rev-parse", "releases") == before
    git(project.main, "branch", "-m", "releases", "mine")
    assert project.publish(project.run("run-2", "run-1"), None).version == "v0.1.0"


def test_a_clone_without_the_tags_takes_no_version_twice(project: Project):
    first = project.publish(project.run("run-1"), None)
    clone = Project(project.main.parent / "clone")
    git(
        project.main,
        "clone",
        "--quiet",
        "--no-local",
        "--no-tags",
        "--single-branch",
        str(project.main),
        str(clone.main),
    )
    clone.releases = project.releases
    (said,) = reconcile(clone.main, clone.releases, NAME)
    assert "lacks its commit" in said
    assert clone.publish(clone.run("run-2"), first).version == "v0.2.0"


def test_versions_count_as_numbers_and_odd_tags_do_not_matter(project: Project):
    for tag, rev in {"@v0.9.0": "HEAD~", "@v0.10.0": "HEAD", "@vague": "HEAD", "@v1": "HEAD", "#prod": "HEAD"}.items():
        git(project.main, "tag", "--no-sign", "-a", "-m", "by hand", f"{NAME}{tag}", rev)
    for tag in ("classifier@v0.11.0", "classifier#prod#1"):
        git(project.main, "tag", "--no-sign", tag)  # lightweight: no version for GTO either, but the name is taken
    git(project.main, "tag", "--no-sign", "-a", "-m", "another model", "other@v3.0.0")
    assert list(registry.versions(project.main, NAME)) == ["v0.9.0", "v0.10.0"]
    assert project.publish(project.run("run-1"), None).version == "v0.12.0"
    assert project.gto("show")[NAME]["stage"]["prod"] == "v0.12.0"


# the DVC remote
