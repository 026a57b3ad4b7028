"""`evergreen upgrade` of a project with the old, flat layout: a toy Evergreen of a few files, real git."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.cli.upgrade import report
from flows.project import origin
from flows.project.moves import moved_to, old_names, old_paths
from flows.project.upgrade.apply import apply
from flows.project.upgrade.plan import plan
from tasks.common.errors import EvergreenError
from tasks.common.params import load_run_params
from tests.support.checkout import ROOT, git

LAYOUT = yaml.safe_load(Path(__file__).with_name("old_layout.yaml").read_text())
OLD, NEW, MINE = LAYOUT["old"], LAYOUT["new"], LAYOUT["mine"]
PLAIN = ("requirements.lock", "LICENSE", "NOTICE", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore")


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def commit(root: Path, files: dict[str, str], message: str = "mine") -> None:
    write(root, files)
    git(root, "add", "-A")
    git(root, "commit", "-qm", message)


def repository(root: Path) -> Path:
    root.mkdir(parents=True)
    git(root, "init", "-q", "-b", "main")
    git(root, "config", "user.name", "a tester")
    git(root, "config", "user.email", "tester@localhost")
    return root


def params(old: bool = True) -> str:
    text = (ROOT / "params.yaml").read_text()
    return text.replace("  resolution:", "  size:", 1) if old else text


@pytest.fixture
def project(tmp_path) -> Path:
    """As `evergreen init` of the flat layout made it."""
    root = repository(tmp_path / "project")
    files = OLD | dict.fromkeys(PLAIN, "plain\n") | {"params.yaml": params(), "README.md": "Mine.\n"}
    commit(root, files, origin.STARTED)
    return root


@pytest.fixture
def evergreen(tmp_path) -> Path:
    """The new Evergreen."""
    return new_evergreen(tmp_path / "evergreen", {})


def new_evergreen(root: Path, changes: dict[str, str]) -> Path:
    moved = {moved_to(name) or name: text for name, text in OLD.items() if name != "flows/notify.py"}
    commit(repository(root), moved | dict.fromkeys(PLAIN, "plain\n") | NEW | changes)
    return root


def kinds(found) -> dict[str, str]:
    return {step.path: step.kind for step in found.steps}


def test_an_untouched_project_is_taken_over_in_one_commit_that_one_revert_undoes(project, evergreen):
    before = git(project, "rev-parse", "HEAD^{tree}")
    found = plan(project, evergreen)
    assert (found.old, found.new, found.conflicts) == ("0.1.0", "0.2.0", [])
    assert kinds(found)["tasks/common/files.py"] == "moved"
    assert kinds(found)["monitoring/alerts.py"] == "updated"
    assert kinds(found)["flows/notify.py"] == "removed"
    assert kinds(found)["tasks/common/__init__.py"] == "added"
    assert git(project, "status", "--porcelain") == ""  # a plan changes nothing
    assert git(project, "rev-parse", "HEAD^{tree}") == before

    assert apply(found) == git(project, "rev-parse", "HEAD")
    assert git(project, "log", "-1", "--format=%s") == "Upgrade Evergreen to 0.2.0"
    assert git(project, "status", "--porcelain") == ""
    needed = {name: (evergreen / name).read_bytes() for name in origin.needed_files(evergreen)}
    assert {name: (project / name).read_bytes() for name in needed} == needed
    tracked = set(git(project, "ls-files").splitlines())
    assert tracked == needed.keys() | {"params.yaml", "README.md", "evergreen.json"}

    git(project, "revert", "--no-edit", "HEAD")
    assert git(project, "rev-parse", "HEAD^{tree}") == before
    assert plan(project, evergreen).old == "0.1.0"  # and the upgrade can be done again


def test_an_older_project_gets_prefect_yaml_and_its_own_is_not_overwritten(project, evergreen):
    assert {path for path, kind in kinds(plan(project, evergreen)).items() if kind == "added"} >= {
        "prefect.yaml",
        "deploy/pool-docker.json",
    }
    commit(project, {"prefect.yaml": "name: mine\n"})
    (step,) = plan(project, evergreen).conflicts
    assert step.path == "prefect.yaml"


def test_changes_of_the_user_are_merged_where_the_file_lies_now(project, evergreen):
    mine = OLD["tasks/files.py"] + "\n\nMINE = 1\n"
    commit(project, {"tasks/files.py": mine, "Makefile": OLD["Makefile"] + "\nmine:\n\ttrue\n"})
    found = plan(project, evergreen)
    assert kinds(found)["tasks/common/files.py"] == "merged"
    assert "Makefile" not in kinds(found)  # Evergreen did not change it
    assert apply(found)
    text = (project / "tasks/common/files.py").read_text()
    assert "from tasks.common.errors" in text
    assert text.endswith("MINE = 1\n")
    assert not (project / "tasks/files.py").exists()
    assert (project / "Makefile").read_text().endswith("mine:\n\ttrue\n")


def test_a_moved_file_that_only_the_user_changed_keeps_the_change(project, evergreen):
    commit(project, {"tasks/errors.py": '"""My errors."""\n'})
    apply(plan(project, evergreen))
    assert (project / "tasks/common/errors.py").read_text() == '"""My errors."""\n'


def test_conflicts_are_left_as_git_shows_them_and_nothing_is_committed(project, evergreen):
    commit(project, {"tasks/gate.py": OLD["tasks/gate.py"].replace("MARGIN = 1", "MARGIN = 2")})
    head = git(project, "rev-parse", "HEAD")
    found = plan(project, evergreen)
    assert [step.path for step in found.conflicts] == ["tasks/gate/judge.py"]
    assert apply(found) is None
    assert git(project, "rev-parse", "HEAD") == head
    assert "UU tasks/gate/judge.py" in git(project, "status", "--porcelain")
    text = (project / "tasks/gate/judge.py").read_text()
    assert "<<<<<<< yours\nMARGIN = 2\n=======\nMARGIN = 3\n>>>>>>> Evergreen 0.2.0\n" in text

    write(project, {"tasks/gate/judge.py": text.split("<<<<<<<")[0] + "MARGIN = 5\nOTHER = 2\n"})
    git(project, "add", "tasks/gate/judge.py")
    git(project, "commit", "--no-edit", "-q")
    assert git(project, "log", "-1", "--format=%s") == "Upgrade Evergreen to 0.2.0"
    assert plan(project, evergreen).nothing


def test_giving_up_a_conflict_leaves_the_project_as_it_was(project, evergreen):
    commit(project, {"tasks/gate.py": OLD["tasks/gate.py"].replace("MARGIN = 1", "MARGIN = 2")})
    apply(plan(project, evergreen))
    git(project, "reset", "-q", "--hard")
    assert git(project, "status", "--porcelain") == ""
    assert (project / "tasks/files.py").is_file()
    assert not (project / "tasks/common").exists()


def test_the_next_upgrade_starts_from_the_last_one(project, evergreen, tmp_path):
    """The user's change is merged again, over what Evergreen changed since the last upgrade, in a fresh clone too."""
    commit(project, {"tasks/files.py": OLD["tasks/files.py"] + "\n\nMINE = 1\n"})
    apply(plan(project, evergreen))
    newer = NEW["tasks/common/files.py"].replace("return 1", "return 10")
    version = {"tasks/common/version.py": 'VERSION = "0.3.0"\n'}
    newest = new_evergreen(tmp_path / "newest", version | {"tasks/common/files.py": newer})
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", str(project), str(clone))
    found = plan(clone, newest)
    assert (found.old, found.new) == ("0.2.0", "0.3.0")
    assert kinds(found) == {"tasks/common/files.py": "merged", "tasks/common/version.py": "updated"}
    apply(found)
    assert (clone / "tasks/common/files.py").read_text() == newer + "\n\nMINE = 1\n"
    git(clone, "revert", "--no-edit", "HEAD")
    assert plan(clone, newest).old == "0.2.0"


def test_files_that_one_side_deleted(project, evergreen):
    git(project, "rm", "-q", "serving/live.py", "tasks/gate.py", "LICENSE")
    commit(project, {"flows/notify.py": '"""My alerts."""\n'})
    found = plan(project, evergreen)
    about = {step.path: step.about for step in found.conflicts}
    assert about == {
        "tasks/gate/judge.py": "you deleted it, Evergreen changed it",
        "flows/notify.py": "you changed it, Evergreen made it part of monitoring/alerts.py",
    }
    apply(found)
    assert not (project / "serving/live.py").exists()  # Evergreen did not change it: it stays deleted
    assert (project / "flows/notify.py").read_text() == '"""My alerts."""\n'
    status = git(project, "status", "--porcelain").splitlines()
    assert "UD flows/notify.py" in status
    assert "DU tasks/gate/judge.py" in status


def test_files_of_the_user_stay_and_their_old_names_are_listed(project, evergreen):
    commit(project, {"tasks/mine.py": MINE["file"], "dvc.yaml": OLD["dvc.yaml"] + MINE["stage"]})
    found = plan(project, evergreen)
    assert found.own == ["tasks/mine.py"]
    assert {tuple(one) for one in found.stale} == {tuple(one) for one in MINE["stale"]}
    path, line, old, new = MINE["stale"][0]
    assert f"  {path}:{line}: {old} is now {new}" in report(found)
    apply(found)
    assert (project / "tasks/mine.py").read_text() == MINE["file"]


def test_params_keep_their_values_comments_and_order(project, evergreen):
    text = params().replace("  size: 64", "  size:   96   # mine, with care")
    commit(project, {"params.yaml": text})
    found = plan(project, evergreen)
    assert [change.split(" (")[0] for change in found.params.changes] == ["images.size is now images.resolution"]
    apply(found)
    assert (project / "params.yaml").read_text() == text.replace("  size:   96", "  resolution:   96")
    assert load_run_params(project / "params.yaml").images.resolution == 96


def test_it_says_what_retrains_and_how_long_that_took(project, evergreen):
    found = plan(project, evergreen)
    assert found.stages == ["inspect", "embed"]  # embed: what it reads is made again
    lines = "\n".join(report(found))
    assert "inspect, embed (how long is not known, as no run is recorded)" in lines
    assert "starts nothing" in lines


def test_a_version_that_changes_no_stage_retrains_nothing(project, evergreen, tmp_path):
    apply(plan(project, evergreen))
    version = {"tasks/common/version.py": 'VERSION = "0.2.1"\n', "serving/live.py": '"""Serves."""\n'}
    found = plan(project, new_evergreen(tmp_path / "next", version))
    assert found.stages == []
    assert "No stage has to run again." in report(found)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: (root / "Makefile").write_text("x"), r"changes that are not committed:\n.*Makefile"),
        (lambda root: (root / "tasks/mine.py").write_text("x"), r"changes that are not committed:\n.*tasks/mine.py"),
        (lambda root: git(root, "checkout", "-q", "--detach"), "on no branch: `git switch BRANCH`"),
        (lambda root: (root / ".git/MERGE_HEAD").write_text("x"), "a merge is under way .* `git merge --abort`"),
        (lambda root: git(root, "commit", "-q", "--amend", "-m", "x"), "not known which Evergreen .* --base COMMIT"),
        (lambda root: commit(root, {"evergreen.json": "{}"}), "evergreen.json is damaged"),
        (lambda root: commit(root, {"evergreen.json": '{"schema": 9}'}), "written by a newer Evergreen: schema 9"),
    ],
)
def test_what_cannot_be_upgraded_is_refused_with_the_way_out(project, evergreen, change, expected):
    change(project)
    with pytest.raises(EvergreenError, match=expected):
        plan(project, evergreen)


def test_a_named_base_takes_the_place_of_the_record(project, evergreen):
    git(project, "commit", "-q", "--amend", "-m", "history rewritten")
    assert plan(project, evergreen, base="HEAD").old == "0.1.0"


def test_evergreen_itself_is_not_a_project(project, evergreen):
    with pytest.raises(EvergreenError, match="holds the very code that runs this command"):
        plan(evergreen, evergreen)
    git(project, "commit", "-q", "--amend", "-m", "x")
    commit(project, {"CONTRIBUTING.md": "How to change Evergreen.\n"})
    with pytest.raises(EvergreenError, match=r"a clone of Evergreen itself.*`git pull`"):
        plan(project, evergreen)


def test_untracked_files_in_the_way_are_never_overwritten(project, evergreen):
    head = git(project, "rev-parse", "HEAD")
    planned = plan(project, evergreen)
    write(project, {"evergreen.json": "mine"})
    with pytest.raises(EvergreenError, match=r"evergreen\.json: not in git"):
        plan(project, evergreen)
    with pytest.raises(EvergreenError, match=r"evergreen\.json"):
        apply(planned)  # the file came after the plan
    assert (project / "evergreen.json").read_text() == "mine"
    assert git(project, "rev-parse", "HEAD") == head


def test_ignored_files_in_the_way_are_never_overwritten(project, evergreen):
    commit(project, {".gitignore": "tasks/common/\n"})
    write(project, {"tasks/common/files.py": "PRECIOUS = 1\n"})
    with pytest.raises(EvergreenError, match=r"tasks/common/files\.py: not in git"):
        plan(project, evergreen)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tasks/common/files.py", r"tasks/common/files\.py: your own .*Evergreen's files move there"),
        ("tasks/common.py", r"tasks/common\.py is a module of yours, and Evergreen now has a package of that name"),
    ],
)
def test_a_file_of_the_user_where_evergreen_moves_one_is_never_lost(project, evergreen, name, expected):
    commit(project, {name: "MINE = 1\n"})
    with pytest.raises(EvergreenError, match=expected):
        plan(project, evergreen)
    assert (project / name).read_text() == "MINE = 1\n"


def test_an_older_evergreen_is_refused(project, evergreen, tmp_path):
    apply(plan(project, evergreen))
    older = new_evergreen(tmp_path / "older", {"tasks/common/version.py": 'VERSION = "0.1.9"\n'})
    with pytest.raises(EvergreenError, match=r"has Evergreen 0\.2\.0, and .* is the older 0\.1\.9"):
        plan(project, older)


def test_the_base_of_a_resolved_conflict_is_in_every_clone(project, evergreen, tmp_path):
    """The user deleted a file that Evergreen changed, and keeps it with a change of their own."""
    git(project, "rm", "-q", "tasks/gate.py")
    git(project, "commit", "-qm", "no gate")
    assert apply(plan(project, evergreen)) is None
    with pytest.raises(EvergreenError, match=r"conflicts in .* wait for you .*git reset --hard"):
        plan(project, evergreen)
    write(project, {"tasks/gate/judge.py": "MARGIN = 9\n"})
    git(project, "add", "tasks/gate/judge.py")
    git(project, "commit", "--no-edit", "-q")
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "-q", project.as_uri(), str(clone))
    newer = {"tasks/common/version.py": 'VERSION = "0.3.0"\n', "tasks/gate/judge.py": "MARGIN = 4\n"}
    found = plan(clone, new_evergreen(tmp_path / "newest", newer))
    assert kinds(found)["tasks/gate/judge.py"] == "conflict"
    assert apply(found) is None
    assert git(clone, "show", ":1:tasks/gate/judge.py") == NEW["tasks/gate/judge.py"].strip()


def test_the_map_leads_from_every_old_path_to_a_file_of_this_tree():
    """A file that is moved or renamed later: change its entries in moves.json, and add one for its last path."""
    lost = {old: new for old, new in old_paths().items() if not (ROOT / new).is_file()}
    assert lost == {}
    assert not [old for old in old_paths() if (ROOT / old).exists()]
    about = json.loads((ROOT / "flows/project/moves.json").read_text())["symbols"]
    for names in about.values():
        for name, module in names.items():
            assert f"{name}" in (ROOT / f"{module.replace('.', '/')}.py").read_text(), f"{module}.{name}"


def test_names_are_found_in_imports_commands_and_paths():
    files = set(git(ROOT, "ls-files").splitlines())
    found = [list(one) for one in old_names(LAYOUT["names"]["text"], files)]
    assert found == LAYOUT["names"]["found"]


def test_the_whole_of_this_evergreen_goes_over_an_old_project(tmp_path):
    """The old layout is this tree with the map inverted and each file a little different."""
    root, back = repository(tmp_path / "project"), {new: old for old, new in old_paths().items()}
    for name in origin.needed_files(ROOT):
        target = root / back.get(name, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        if name.endswith(".py"):
            target.write_text(target.read_text() + "\n# as it was\n")
    commit(root, {"params.yaml": params(), "tasks/mine.py": MINE["file"]}, origin.STARTED)
    found = plan(root, ROOT)
    assert found.conflicts == []
    assert found.stages == list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert apply(found)
    for name in origin.needed_files(ROOT):
        assert (root / name).read_bytes() == (ROOT / name).read_bytes()
    assert plan(root, ROOT).nothing
