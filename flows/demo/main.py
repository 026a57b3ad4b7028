"""`make demo`: the whole loop on real images, in a scratch clone of this checkout.

    python -m flows.demo [DATA [FOLDER]]

DATA: fashion (the images in datasets/) or elpv (photos of solar cells, installed on demand: flows.demo.elpv).
FOLDER: where the clone goes, .demo by default. The demo stops and replaces an earlier demo there.

What you should see: a first release. A second batch, which retrains only what it must and is promoted (with elpv the
small batch may be held). A sabotaged batch, which is stopped before training. Then production: the images change, an
alarm follows, a person labels, and a retraining starts by itself (flows.demo.production). Then a floor: the live model
is judged again, as if 95 % of the hard set had to be right. At the end the demo prints where to look. Your checkout
stays untouched.
"""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.rule import Rule

from flows.demo import elpv, production
from flows.demo.production import Story
from flows.repo.git import git, identity_options
from flows.repo.workspace import state_dir
from flows.server.environment import environment
from flows.services.up import down, services
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, write_json
from tasks.common.params import load_params
from tasks.releases.store import Releases, open_store

console = Console(highlight=False)
HERE = Path(__file__).resolve().parents[2]
FLOOR = "set: hard, accuracy: 0.95"  # more than the comparison with the champion asks for
REJECTED = 4  # exit code of `evergreen retrain`: the gate rejected the challenger
SETTINGS = {  # line of params.yaml -> the demo's: it has minutes, not days, and labels every image of two windows
    r"  resolution: 64": "  resolution: 48",  # the images have 28 pixels a side
    r"  flush_seconds: .*": "  flush_seconds: 1",
    r"  budget: .*": "  budget: 500",
    r"  with_up: .*": "  with_up: true",  # the predictor, which answers the traffic
    r"  workers: 2": "  workers: 1",  # it shares the machine with a training
    r"  monitor_minutes: .*": "  monitor_minutes: 600",  # the demo calls the monitor itself when a window is full
}


def clone(target: Path) -> Path:
    """Clone this checkout's HEAD to `target`, after stopping and removing an earlier demo there."""
    if target.exists():
        if not (target / ".git").is_dir() or not (target / "dvc.yaml").is_file():
            raise EvergreenError(f"{target} exists and is not an earlier demo: remove it, or choose another folder")
        down(target)
        shutil.rmtree(target)
    git(HERE, "clone", "--quiet", "--no-hardlinks", str(HERE), str(target))
    options = identity_options(target)
    for option in options[1::2]:
        name, _, value = option.partition("=")
        git(target, "config", name, value)
    return target


def fashion(project: Path) -> Story:
    """The story on the images in datasets/fashion, with the settings of params.yaml."""
    return Story(
        files=project / "datasets/fashion",
        ingests=((),),
        certain_gain=True,
        known="the cameras the model knows",
        change="a camera is replaced",
        changed="the new camera",
    )


STORIES = {"fashion": fashion, "elpv": elpv.story}


def commit_settings(project: Path) -> None:
    """Put the demo's settings into params.yaml and commit them, together with what the story wrote there."""
    params = (project / "params.yaml").read_text(encoding="utf-8")
    for shipped, ours in SETTINGS.items():
        params = re.sub(f"(?m)^{shipped}$", ours, params)
    with atomic_path(project / "params.yaml", tracked=True) as temporary:
        temporary.write_text(params, encoding="utf-8")
    git(project, "commit", "--quiet", "-am", "settings of the demo")


def evergreen(project: Path, *arguments: str) -> int:
    """Run one `evergreen` command in the demo's project and show it as a user would type it."""
    console.print(f"[bold green]$[/] evergreen {' '.join(arguments)}", soft_wrap=True)
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=project,
        env=environment(project) | {"PYTHONPATH": str(project)},
    ).returncode


def start_services(project: Path) -> subprocess.Popen:
    """Start `evergreen up` in the background while the first steps run; part 4 shows its output."""
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "up"],
        cwd=project,
        env=environment(project) | {"PYTHONPATH": str(project)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def must(code: int, expected: int, what: str) -> None:
    if code != expected:
        raise EvergreenError(f"the demo expected {what} (exit code {expected}), found exit code {code}")


def main() -> None:
    """Run the demo on the data and in the folder of the command line; an error is one line on stderr."""
    data, folder = (*sys.argv[1:], *("fashion", HERE / ".demo")[len(sys.argv) - 1 :])
    try:
        run(data, Path(folder).resolve())
    except EvergreenError as error:
        sys.exit(f"error: {error}")


def run(data: str, target: Path) -> None:
    """Play the story of `data` in `target`. Raises EvergreenError where a step ends otherwise than the story says."""
    if data not in STORIES:
        raise EvergreenError(f"unknown data {data!r}: choose one of {', '.join(STORIES)} (make demo DATA=...)")
    start = time.monotonic()
    project = clone(target)
    story = STORIES[data](project)
    commit_settings(project)
    services_start = start_services(project)
    console.print(Rule("1  Images and labels go in, a first model comes out"))
    for arguments in story.ingests:
        must(evergreen(project, "ingest", *arguments), 0, "the first images to be taken in")
    must(evergreen(project, "retrain", "--reason", "first model"), 0, "a first release")
    releases = open_store(load_params(project / "params.yaml").store, project)
    first = releases.live()
    if first is None:
        raise EvergreenError("the demo expected a first release, none is live")

    console.print(Rule("2  A second batch: only the new images are processed, and a better model is promoted"))
    must(evergreen(project, "ingest", str(story.files / "batch-2.parquet")), 0, "the second batch to be taken in")
    code = evergreen(project, "retrain", "--reason", "new batch")
    if story.certain_gain:
        must(code, 0, "a second release")
        if releases.live().version == first.version:
            raise EvergreenError(f"the demo expected the retrained model to replace {first.version}; it is still live")
    elif code != REJECTED:
        must(code, 0, "a second release, or one that is held")

    console.print(Rule("3  A sabotaged batch (wrong labels): stopped before training"))
    must(evergreen(project, "ingest", str(story.files / "sabotaged.parquet")), 0, "the sabotaged batch to be taken in")
    must(evergreen(project, "retrain", "--reason", "new batch"), 3, "the sabotaged batch to be refused")
    must(evergreen(project, "retrain", "--reason", "the next schedule"), 0, "the tombstone to hold")

    trained = time.monotonic()
    services_start.wait()
    demo = production.Demo(project, releases, evergreen, story)
    figures = production.run(demo, lambda text: console.print(Rule(text)))

    console.print(Rule("8  A floor: the model that is live is judged again, as if the hard set had one"))
    judge_under_a_floor(project, releases)

    console.print(Rule())
    evergreen(project, "releases")
    evergreen(project, "status")
    minutes = {"minutes": (time.monotonic() - start) / 60, "minutes_of_training_part": (trained - start) / 60}
    write_json(state_dir(project) / "demo.json", {"data": data} | minutes | figures)
    show_where_to_look(project, minutes["minutes"])


def judge_under_a_floor(project: Path, releases: Releases) -> None:
    """Say how every version stands to FLOOR, and what the gate would have said of the live one. Nothing is trained."""
    must(evergreen(project, "floors", "--floor", FLOOR), 0, "every version to be compared with a floor")
    run_id = releases.live().run_id
    must(evergreen(project, "approve", run_id, "--preview", "--floor", FLOOR), 0, "the run to be judged again")


def show_where_to_look(project: Path, minutes: float) -> None:
    """Print where everything is: the console. In plain lines, so that addresses stay whole and clickable."""
    address = next(url for name, url, _ in services(project) if name == "pages")
    console.print(Rule(f"Done in {minutes:.1f} minutes. Where to look"))
    command = f"cd {project} && {Path(sys.executable).parent / 'evergreen'}"
    places = {
        "everything, in your browser": address,
        "sign your browser in": f"{command} open",
        "stop everything": f"{command} down",
    }
    for what, where in places.items():
        console.print(f"  [bold]{what:<30}[/]{where}", soft_wrap=True)
