"""Bad input, tried as a new user would, through the real command line: a clear message or a quarantine reason, nothing
lost, nothing half done, and the next command works. docs/errors.md is the table of it."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from tests.support import bad_input
from tests.support.bad_input import environment, evergreen, hears_ctrl_c, images, noise, says, state, takes_more
from tests.support.checkout import git
from tests.support.s3_servers import rclone  # noqa: F401

# root may write everywhere: the tests take that right from the commands they start, as a user has none
AS_A_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")
UNDER = AS_A_USER if os.geteuid() == 0 else ()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    return bad_input.make(tmp_path_factory.mktemp("bad") / "made")


@pytest.fixture
def project(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "project", symlinks=True)
    return tmp_path / "project"


# --- sources


def test_a_source_that_cannot_be_used_is_an_error_and_changes_nothing(project, tmp_path):
    before = state(project)
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no images")
    (tmp_path / "photos.zip").write_bytes(b"PK\3\4")
    (tmp_path / "kinds.csv").write_text("path,kind\na.png,cat\n")
    (tmp_path / "noise.csv").write_bytes(bytes(range(256)))
    (tmp_path / "rest/cat").mkdir(parents=True)
    (tmp_path / "rest/cat/0.jpg").write_bytes(b"")
    for source, *words in (
        ("empty", "empty is empty", "expected images in class folders, or a manifest"),
        ("nowhere", "nowhere does not exist", "expected a folder of images or a .csv, .jsonl or .parquet manifest"),
        ("notes.txt", "notes.txt: .txt is not a manifest", "expected a folder of images"),
        ("photos.zip", "is an archive: unpack it"),
        ("kinds.csv", "no label column; columns found: 'path', 'kind'", "--label NAME"),
        ("kinds.csv --label species", "no column 'species'", "columns found: 'path', 'kind'"),
        ("noise.csv", "noise.csv cannot be read as CSV: it holds NUL bytes"),
        ("rest", "cat/0.jpg: empty_file (0 bytes)", "nothing in ", "could be used"),
    ):
        name, *options = source.split()
        says(evergreen(project, "ingest", str(tmp_path / name), *options), 1, *words)
    says(evergreen(project, "ingest", ""), 1, "an empty name")
    says(evergreen(project, "ingest"), 1, "name a source to ingest: this project has no default set")
    assert state(project) == before
    takes_more(project)


def test_odd_images_and_hostile_names_are_taken_or_quarantined_with_their_reason(project, tmp_path):
    rng = np.random.default_rng(7)
    source = images(tmp_path / "mixed", {"cat": 2, "dog": 2}, seed=3)
    (source / "cat/zero.jpg").write_bytes(b"")
    (source / "cat/text.jpg").write_text("no image")
    (source / "cat/half.png").write_bytes((source / "cat/0.png").read_bytes()[:300])
    os.symlink("/etc/passwd", source / "cat/link.png")
    os.symlink("/etc", source / "etc")
    os.mkfifo(source / "cat/pipe.png")
    noise(rng).convert("CMYK").save(source / "dog/cmyk.jpg")
    Image.fromarray(rng.integers(0, 65536, (24, 24)).astype(np.uint16)).save(source / "dog/deep.png")
    noise(rng).quantize(16).save(source / "dog/palette.png")
    noise(rng).save(source / "dog/moving.gif", save_all=True, append_images=[noise(rng), noise(rng)])
    turned = noise(rng)
    turned.info["exif"] = (exif := turned.getexif())
    exif[0x0112] = 6
    turned.save(source / "dog/turned.jpg", exif=exif)
    taken = ["<script>alert(1)<", "-rf", "\u202egnp.exe"]
    for name in [*taken, "new\nline", "x" * 250, "..."]:  # the last is a hidden folder: not looked into
        (source / name).mkdir()
        noise(rng).save(source / name / f"z{name[:200]}.png")
    raw = os.fsencode(source) + b"/\xff\xfe"
    os.mkdir(raw)
    Path(os.fsdecode(raw + b"/i\xff.png")).write_bytes((source / "cat/0.png").read_bytes() + b" ")

    done = evergreen(project, "ingest", str(source))
    says(
        done,
        0,
        "took 12 new images of 5 classes",
        "cat/zero.jpg: empty_file (0 bytes)",
        "cat/text.jpg: unknown_format (expected one of JPEG, PNG, WEBP, BMP, TIFF, GIF, MPO, PPM, AVIF, HEIC)",
        "cat/half.png: truncated",
        "cat/link.png: outside_root ('cat/link.png' leads out of mixed)",
        "etc: outside_root (a linked folder is not followed: ingest its target instead)",
        "cat/pipe.png: missing_file (not a regular file)",
        r"new\nline/znew\nline.png: bad_label ('new\nline' has control characters",
        "bad_label (250 characters, at most 200 allowed)",
        "bad_label (not valid Unicode text)",
    )
    shards = sorted((project / "data").glob("*.parquet"), key=lambda file: file.stat().st_mtime_ns)
    labels = set(pq.read_table(shards[-1], columns=["label"])["label"].to_pylist())
    assert labels == {"cat", "dog", *taken}
    says(evergreen(project, "ingest", str(source)), 0, "took no new image; skipped 12 known; quarantined 9")
    assert git(project, "status", "--porcelain") == ""
    takes_more(project)


def test_rows_that_lead_elsewhere_or_name_nothing_are_quarantined(project, tmp_path):
    images(tmp_path / "set", {"cat": 3}, seed=5)
    rows = ["path,label", "set/cat/0.png,cat", "../project/dvc.yaml,cat", "/etc/passwd,dog", "set/none.png,dog"]
    rows += [f"set/cat/1.png,{'L' * 300}", "set/cat/1.png,a\0b", f"{'n' * 300}.png,cat", "set/cat/2.png,\u202ecat"]
    (tmp_path / "rows.csv").write_text("\n".join(rows) + "\n")
    says(
        evergreen(project, "ingest", str(tmp_path / "rows.csv")),
        0,
        "took 2 new images",
        "rows.csv line 3: outside_root ('../project/dvc.yaml' contains '..')",
        "rows.csv line 4: outside_root ('/etc/passwd' leads out of",
        "rows.csv line 5: missing_file ('set/none.png': No such file or directory)",
        "rows.csv line 6: bad_label (300 characters, at most 200 allowed)",
        "rows.csv line 7: bad_label",
        "rows.csv line 8: missing_file",
    )
    assert git(project, "status", "--porcelain") == ""


@pytest.mark.long
def test_init_says_what_will_stop_the_first_run(tmp_path):
    (tmp_path / "kinds.csv").write_text("path,kind\none/cat/0.png,cat\none/cat/1.png,cat\n")
    (tmp_path / "empty").mkdir()
    images(tmp_path / "one", {"cat": 3})
    images(tmp_path / "few", {"cat": 6, "dog": 6, "bird": 1})
    for source, *words in (
        ("empty", "expected images in class folders, or a manifest"),
        ("nowhere", "nowhere does not exist"),
        ("kinds.csv", "columns found: 'path', 'kind'", "--label NAME"),
    ):
        says(evergreen(tmp_path, "init", "mine", "--data", str(tmp_path / source)), 1, *words)
        assert not (tmp_path / "mine").exists()
    says(
        evergreen(tmp_path, "init", "kinds.csv/mine", "--data", "one"),
        1,
        "kinds.csv/mine: Not a directory",
        "through a file",
    )
    says(evergreen(tmp_path, "init", "one", "--data", "one"), 1, "one is not empty: name a new folder")
    says(evergreen(tmp_path, "init", "a", "--data", "one"), 0, "only one class, 'cat': a classifier needs")
    says(evergreen(tmp_path, "init", "b", "--data", "few"), 0, "fewer than 3 images ('bird' 1)", "b is ready")
    says(evergreen(tmp_path, "init", "c", "--data", "kinds.csv", "--label", "kind"), 0, "--label kind")


# --- params.yaml


def test_every_mistake_in_params_is_told_at_once(project, tmp_path):
    good = (project / "params.yaml").read_text()
    wrong = (
        good.replace("  resolution: 64", "  resolution: big")
        .replace("  folds: 5", "  foldz: 5")
        .replace(": -1", ": 9999", 1)
    )
    (project / "params.yaml").write_text(wrong)
    before = state(project)
    three = (
        "params.yaml has 3 mistake(s)",
        "images.resolution: expected a valid integer",
        "(found 'big')",
        "inspect.workers: expected less than or equal to 256 (found 9999)",
        "clean.foldz: there is no such key, is 'folds' meant? (found 5)",
    )
    for command in (("ingest", str(tmp_path)), ("retrain",)):
        says(evergreen(project, *command), 1, *three)
    assert state(project) == before
    for content, *words in (
        (b"data: [\n", "params.yaml is not valid YAML: line 1", "closing bracket is missing"),
        (b"\xff\xfe\0", "params.yaml is not valid YAML in UTF-8"),
        (b"", "params.yaml is empty: expected a mapping of sections", "git checkout params.yaml"),
        (b"- a\n", "expected a mapping of sections, found list"),
    ):
        (project / "params.yaml").write_bytes(content)
        says(evergreen(project, "retrain"), 1, *words)
    (project / "params.yaml").write_text(good.replace("task: multiclass", "task: multilabel"))
    source = images(tmp_path / "more", {"cat": 1})
    says(evergreen(project, "ingest", str(source)), 1, "is a multiclass data set", "multilabel: restore the old value")
    (project / "params.yaml").write_text(good)
    assert {**before, "status": ""} == state(project)
    takes_more(project)


# --- git


def test_a_run_asks_for_the_new_name_of_the_resolution(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("  resolution:", "  size:"))
    evergreen(project, "ingest", str(images(project.parent / "more", {"cat": 3}, seed=11)))
    git(project, "commit", "-qam", "the old name")
    says(evergreen(project, "retrain"), 1, "images.size", "rename it to `resolution`")


def test_outside_of_git_or_without_a_commit(project, tmp_path):
    source = images(tmp_path / "more", {"cat": 1})
    shutil.move(project / ".git", tmp_path / "git")
    files = sorted((project / "data").rglob("*"))
    for command in (("ingest", str(source)), ("retrain",)):
        says(evergreen(project, *command), 1, f"{project} is not in a git repository", "`git init`")
    assert sorted((project / "data").rglob("*")) == files
    git(project, "init", "-q")
    says(evergreen(project, "retrain"), 1, "has no commit yet", "`git add --all`, then `git commit`")
    shutil.rmtree(project / ".git")
    shutil.move(tmp_path / "git", project / ".git")
    assert git(project, "status", "--porcelain") == ""


def test_dirty_detached_nameless_and_without_data(project, tmp_path):
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "\n")
    (project / "tasks/code.py").write_text("code = 2\n")
    before = state(project)
    says(evergreen(project, "retrain"), 1, "differ from HEAD", "M params.yaml", "M tasks/code.py", "Commit them")
    assert state(project) == before
    git(project, "checkout", "-q", ".")

    git(project, "checkout", "-q", "--detach")
    git(project, "config", "--unset", "user.name")
    git(project, "config", "--unset", "user.email")
    (tmp_path / "gitconfig").write_text("[user]\n    useConfigOnly = true\n")  # no guess from this machine's name
    nobody = {"GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")}
    source = images(tmp_path / "more", {"cat": 1}, seed=8)
    says(evergreen(project, "ingest", str(source), env=nobody), 0, "HEAD is detached", "`git switch -c NAME`")
    assert git(project, "log", "-1", "--format=%an %ae") == "evergreen evergreen@localhost"
    assert git(project, "config", "--local", "--list").count("user.") == 0

    git(project, "rm", "-q", "--cached", "data.dvc")
    git(project, "-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "no data")
    (project / "data.dvc").unlink()
    says(evergreen(project, "retrain"), 1, "HEAD has no data.dvc: run `evergreen ingest FOLDER` first")


@pytest.mark.long
def test_a_shallow_clone_without_the_data_refuses_other_data_every_time(project, tmp_path):
    git(tmp_path, "clone", "-q", "--depth=1", f"file://{project}", "clone")
    clone = tmp_path / "clone"
    before = state(clone)
    other = images(tmp_path / "other", {"cat": 2, "dog": 2}, seed=12)
    for _ in range(2):  # the second time what the first left would pass for the data set
        done = evergreen(clone, "ingest", str(other))
        says(done, 1, "that is neither here nor in the cache or remote", "`dvc pull`", "--new")
        assert state(clone) == before
    says(evergreen(clone, "ingest", str(other), "--new"), 0, "took 4 new images")


def test_a_data_dvc_that_cannot_be_read(project, tmp_path):
    (project / "data.dvc").write_text((project / "data.dvc").read_text() + "<<<<<<< HEAD\n")
    shutil.rmtree(project / "data")
    source = images(tmp_path / "more", {"cat": 1})
    says(evergreen(project, "ingest", str(source)), 1, "data.dvc", "`git checkout` restores the committed ones")
    git(project, "checkout", "-q", "data.dvc")
    takes_more(project)


# --- the machine


def test_a_checkout_that_cannot_be_written_to(project, tmp_path):
    source = images(tmp_path / "more", {"cat": 1})
    before = state(project)
    folders = [path for path in (project, *project.rglob("*")) if path.is_dir()]
    modes = {folder: folder.stat().st_mode for folder in folders}
    for folder in folders:
        folder.chmod(0o555)
    try:
        says(evergreen(project, "ingest", str(source), under=UNDER), 1, "Permission denied", "writable")
        says(evergreen(project, "retrain", under=UNDER), 1, "writable")
    finally:
        for folder, mode in modes.items():
            folder.chmod(mode)
    assert state(project) == before
    takes_more(project)


def test_a_full_disk(project, tmp_path):
    source = images(tmp_path / "more", {"cat": 20}, seed=4)
    before = state(project)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    says(evergreen(project, "ingest", str(source), preexec_fn=limit), 1, "File too large", "the same command again")
    assert {**state(project), "data": None} == {**before, "data": None}
    says(evergreen(project, "ingest", str(source)), 0, "took 20 new images")
    assert not [path for path in (project / "data").rglob("*") if path.name.startswith(".")]


def test_ctrl_c_during_an_ingest(project, tmp_path):
    source = images(tmp_path / "more", {"cat": 1500, "dog": 1}, seed=4)
    shutil.rmtree(project / ".evergreen/ingest")
    before = state(project)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "flows.cli", "ingest", str(source)],
        cwd=project,
        env=environment(project),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=hears_ctrl_c,
        start_new_session=True,  # a terminal sends the signal to the whole group, decoding children too
    )
    while process.poll() is None and not list((project / ".evergreen").glob("ingest/*.lock")):  # reading has begun
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    # to a shell they are one: Python ends by the signal itself where that met code which an import had in a string
    assert process.returncode in (130, -signal.SIGINT), said
    assert "interrupted: " in said
    assert "Traceback" not in said, said
    assert state(project) == before
    says(evergreen(project, "ingest", str(source)), 0, "took 1501 new images")


def test_no_remote_no_store_no_server(project, tmp_path):
    before = state(project)
    closed = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    says(
        evergreen(project, "retrain", env=closed), 1, "PREFECT_API_URL=http://127.0.0.1:9/api does not answer", "unset"
    )
    says(evergreen(project, "up", env=closed), 1, "PREFECT_API_URL=http://127.0.0.1:9/api does not answer", "unset")
    assert state(project) == before

    (project / ".evergreen/releases").mkdir(exist_ok=True)
    (project / ".evergreen/releases").chmod(0o555)
    says(evergreen(project, "retrain", env=closed, under=UNDER), 1, "releases", "writable")
    (project / ".evergreen/releases").chmod(0o755)

    (project / ".dvc/config").write_text("[core]\n    analytics = false\n")
    git(project, "commit", "-qam", "no remote")
    says(evergreen(project, "retrain", env=closed), 1, "no DVC remote", "dvc remote add")
    assert not list((project / ".evergreen/runs").glob("*/tree"))


def test_wrong_s3_credentials(project, rclone):  # noqa: F811
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["store"] |= {
        "url": f"s3://{rclone.bucket()}/releases",
        "endpoint_url": rclone.endpoint,
        "single_writer": True,
    }
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    git(project, "commit", "-qam", "S3")
    secret = "wrong-and-never-to-be-shown"
    wrong = {"AWS_ACCESS_KEY_ID": "AKIAWRONG", "AWS_SECRET_ACCESS_KEY": secret, "AWS_DEFAULT_REGION": "us-east-1"}
    before = state(project)
    for command in (("retrain",), ("ingest", f"s3://{params['store']['url'].split('/')[2]}/images")):
        done = evergreen(project, *command, env=wrong)
        says(done, 1, "s3://", "AWS_ACCESS_KEY_ID")
        assert secret not in done.stdout + done.stderr
    assert state(project) == before
