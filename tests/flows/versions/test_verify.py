"""`evergreen verify` on real releases: deleted, truncated and altered files are named, and repaired if possible."""

import json
import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from flows.repo.git import git
from flows.versions.verify import Checked, verify
from monitoring.log.production_log import open_log
from tasks.common.errors import EvergreenError
from tasks.common.params import load_params
from tasks.common.sealed import sealed_path
from tests.monitoring.log.test_log import answers
from tests.support import versions_project


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return versions_project.copy(tmp_path / "project")


def problems(lines: list[Checked]) -> dict[str, set[str]]:
    """Version -> keys of what is wrong."""
    return {line.version: {found.key for found in line.problems} for line in lines if line.problems}


def flip(file: Path) -> None:
    """Change one bit and leave size and time alone, as a disk does."""
    about = file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(stat.S_IRUSR | stat.S_IWUSR)
    file.write_bytes(content)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def cut(file: Path) -> None:
    content = file.read_bytes()[: file.stat().st_size // 2]
    file.unlink()
    file.write_bytes(content)


HARM = {"flipped": flip, "cut short": cut, "deleted": Path.unlink}


def objects(folder: Path) -> dict[str, Path]:
    """Name -> file of a DVC cache or remote."""
    return {file.parent.name + file.name: file for file in sorted(folder.glob("files/md5/*/*"))}


def test_sound_releases_pass_and_shared_objects_count_in_each(project: Path):
    lines = verify(project, deep=True)
    here = ["(data)", "(outputs)"]
    assert [line.version for line in lines] == ["(history)", "v0.1.0", "v0.2.0", "v0.3.0", *here]
    assert all(line.ok for line in lines)
    assert lines[0].objects == 3
    assert lines[1].objects < lines[2].objects < lines[3].objects  # each has the batches before it too
    assert verify(project, "v0.2.0") == [lines[2]]


def test_every_object_of_the_remote_is_looked_at(project: Path):
    remote = objects(project / ".evergreen/remote")
    rng = np.random.default_rng(0)
    harmed = {oid: rng.choice(list(HARM)) for oid in remote}
    assert set(harmed.values()) == set(HARM)
    for oid, how in harmed.items():
        HARM[how](remote[oid])
    lines = verify(project, deep=True)
    assert set().union(*problems(lines).values()) == set(remote)
    assert all(
        found.place == "remote" and "verify --repair" in found.remedy for line in lines for found in line.problems
    )
    assert not problems(verify(project, deep=True, repair=True))
    assert all(
        file.read_bytes() == (project / ".dvc/cache" / file.relative_to(project / ".evergreen/remote")).read_bytes()
        for file in remote.values()
    )


def test_every_object_of_the_release_store_is_looked_at(project: Path):
    store = project / ".evergreen/releases"
    kept = {path: path.read_bytes() for folder in ("objects", "bundles") for path in (store / folder).iterdir()}
    for number, path in enumerate(kept):
        list(HARM.values())[number % 3](path)
    found = problems(verify(project))
    lost = {str(path.relative_to(store)) for path in kept}
    manifests = {key for key in lost if key.startswith("bundles/")}
    assert set().union(*found.values()) == manifests  # what a bundle needs is not known without its manifest
    for _ in range(2):  # the manifests first, then what they name
        lines = verify(project, repair=True)
    assert not problems(lines)
    assert {path: path.read_bytes() for path in kept} == kept


def test_a_damaged_cache_is_named_before_a_checkout_serves_it(project: Path):
    cache = objects(project / ".dvc/cache")
    oid = next(oid for oid in cache if not oid.endswith(".dir"))
    whole = cache[oid].read_bytes()
    verify(project)  # hashes are remembered
    flip(cache[oid])
    found = [problem for line in verify(project, deep=True) for problem in line.problems]
    assert {(problem.place, problem.key) for problem in found} == {("cache", oid)}
    assert not problems(verify(project, deep=True, repair=True))
    assert cache[oid].read_bytes() == whole


def test_an_object_without_an_undamaged_copy_is_reported_and_not_repaired(project: Path):
    remote, cache = objects(project / ".evergreen/remote"), objects(project / ".dvc/cache")
    (listing,) = json.loads(
        next(f.read_text() for oid, f in remote.items() if oid.endswith(".dir") and f.read_text().count("relpath") == 2)
    )[1:]
    oid = listing["md5"]
    remote[oid].unlink()
    flip(cache[oid])
    for file in (project / "artifacts").rglob("*"):
        if file.is_file():
            file.unlink()
    lines = verify(project, deep=True, repair=True)
    found = [problem for line in lines for problem in line.problems if problem.key == oid]
    assert {problem.place for problem in found} == {"remote", "cache"}
    assert all("no undamaged copy is left here" in problem.remedy for problem in found)
    assert sum(bool(line.problems) for line in lines) == 1  # one version's evaluation; the others are whole


def test_gaps_in_the_history_and_an_unreadable_pointer(project: Path):
    pointers = project / ".evergreen/releases/pointers"
    (pointers / "00000002.json").unlink()
    assert problems(verify(project)) == {"(history)": {"pointers/00000002.json"}}
    (pointers / "00000001.json").write_text("{}")
    assert problems(verify(project))["(history)"] == {"pointers/00000001.json", "pointers/00000002.json"}
    (project / ".evergreen/releases/champion.json").write_text("{")
    assert "champion.json" in problems(verify(project))["(history)"]
    shutil.copy(
        versions_project.template() / ".evergreen/releases/pointers/00000001.json", pointers.parent / "champion.json"
    )
    assert "champion.json" in problems(verify(project))["(history)"]  # an old one was put back


def test_an_altered_pointer_is_named(project: Path):
    file = project / ".evergreen/releases/pointers/00000001.json"
    about = json.loads(file.read_text())
    file.chmod(0o644)
    file.write_text(json.dumps(about | {"why": "another reason"}, indent=2, sort_keys=True) + "\n")
    (found,) = [problem for problem in verify(project)[0].problems]
    assert found.key == "pointers/00000001.json"
    assert "digest does not fit" in found.text


def test_a_clone_without_the_commit_says_what_to_fetch(project: Path):
    rev = git(project, "rev-parse", "classifier@v0.2.0^{commit}")
    git(project, "tag", "--delete", *git(project, "tag").split())
    git(project, "update-ref", "-d", "refs/heads/releases")
    git(project, "reflog", "expire", "--expire=now", "--all")
    git(project, "gc", "--quiet", "--prune=now")
    found = problems(verify(project))
    assert found["v0.2.0"] == {rev}
    assert "fetch the branch releases" in verify(project, "v0.2.0")[-1].problems[0].remedy


def test_a_held_run_counts_and_a_retired_version_does_not(project: Path):
    git(project, "update-ref", "refs/evergreen/held/run-9", git(project, "rev-parse", "classifier@v0.2.0^{commit}"))
    releases = versions_project.store(project)
    releases.retire("v0.2.0", "too old", "ann")
    assert [line.version for line in verify(project)][1:] == ["v0.1.0", "v0.3.0", "held run-9"]
    assert verify(project, "held run-9")[0].objects > 10
    with pytest.raises(EvergreenError, match=r"v0\.2\.0 was retired on .* by ann: too old"):
        verify(project, "v0.2.0")
    with pytest.raises(EvergreenError, match="no version 'v7'"):
        verify(project, "v7")


def test_the_command_ends_with_1_and_names_the_object(project: Path, monkeypatch: pytest.MonkeyPatch):
    from flows.cli.main import app

    monkeypatch.chdir(project)
    assert CliRunner().invoke(app, ["verify"]).exit_code == 0
    oid, file = next(iter(objects(project / ".evergreen/remote").items()))
    cut(file)
    done = CliRunner().invoke(app, ["verify"])
    assert done.exit_code == 1
    assert oid[2:] in done.output
    assert "is damaged" in done.output
    assert CliRunner().invoke(app, ["verify", "--repair"]).exit_code == 0


def test_deep_names_what_no_version_holds_and_repairs_it(project: Path):
    """The checkout's own data/, the production log, outputs of stages and caches."""
    params = load_params(project / "params.yaml")
    log = open_log(project, params)
    (key,) = log.append(answers(5))
    entry = project / ".evergreen/cache/pixels/key/entry.npy"
    with sealed_path(entry) as temporary:
        temporary.write_bytes(b"pixels")
    places = {
        "shard": max((project / "data").glob("*.parquet")),
        "annotations": max((project / "data/annotations").glob("*.parquet")),
        "manifest": max((project / "data/batches").glob("*.json")),
        "log": project / params.capture.url / key,
        "output": project / "artifacts/evaluate/report.json",
        "cache": entry,
    }
    before = {name: file.read_bytes() for name, file in places.items()}
    assert all(line.ok for line in verify(project, deep=True))
    for file in places.values():
        flip(file)
    assert all(line.ok for line in verify(project, "v0.3.0", deep=True)), "no file of a version is damaged"
    texts = {problem.text for line in verify(project, deep=True) for problem in line.problems}
    assert len(texts) == len(places)
    for file in (*places.values(), key):
        assert any(str(file) in text for text in texts) or file == places["log"]
    left = {problem.place for line in verify(project, deep=True, repair=True) for problem in line.problems}
    assert left == {"log", "outputs"}, "nothing else has a copy of the log; a run makes outputs again"
    assert [name for name, file in places.items() if file.is_file() and file.read_bytes() == before[name]] == [
        "shard",
        "annotations",
        "manifest",
    ]
    assert not entry.exists()
