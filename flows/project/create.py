"""`evergreen init`: a git repository with Evergreen's code and params that fit the data."""

import shutil
from pathlib import Path
from textwrap import wrap
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel

from flows.project.hidden_groups import hidden_group_notes
from flows.project.ingest import chosen_layout
from flows.project.origin import RECORD, STARTED, needed_files, record_text, template_revision, version_at
from flows.project.source_profile import REACH, SourceProfile, profile_source
from flows.project.suggest import layout_notes, slug, suggest_params, trainable_sizes
from flows.project.trials.run import Say, Tried, run_trials, with_values
from flows.project.trials.sample import ENOUGH, draw_sample
from flows.repo.git import git
from tasks.common.errors import EvergreenError
from tasks.common.files import write_json
from tasks.common.params import Params
from tasks.common.text import single_spaced
from tasks.sources.folders import WRAPPERS
from tasks.sources.records import Columns
from tasks.sources.source import open_source

HEADER = """\
# Written by `evergreen init` for {source}.
# One section per stage. Lines "fitted:" say what was found in the data; change what you know better. Unknown keys are
# refused and all mistakes are reported at once. The schema is tasks/common/params.py.
"""
NAMES_NOTHING = WRAPPERS | {"labels", "annotations", "metadata", "manifest", "index", "list", "train", "all"}


def fit_params(source: Path, columns: Columns | None = None, layout: str | None = None) -> str:
    """The text of a params.yaml that fits the images and labels at `source`. Raises DataError."""
    return _params_text(source, *suggest_params(profile_source(source, columns, layout)))


def _params_text(source: Path, params: Params, why: dict[str, str]) -> str:
    return HEADER.format(source=single_spaced(source.name)) + render_params(params, why)


def render_params(params: Params, why: dict[str, str]) -> str:
    """`params` as YAML; above each key its description and, if `why` has one, the reason for its value."""
    sections = ((field.alias or name, getattr(params, name)) for name, field in Params.model_fields.items())
    return "".join(render_section(name, section, why) for name, section in sections)


def render_section(name: str, section: BaseModel, why: dict[str, str]) -> str:
    """One section of params.yaml, after an empty line."""
    lines = ["", f"{name}:"]
    for key, about in type(section).model_fields.items():
        lines += _comment(about.description or "")
        lines += _comment(f"fitted: {found}" if (found := why.get(f"{name}.{key}")) else "")
        lines += _entry(key, getattr(section, key))
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return wrap(text, 116, initial_indent="  # ", subsequent_indent="  # ", break_on_hyphens=False)


def _entry(key: str, value: Any) -> list[str]:
    if isinstance(value, list) and value and isinstance(value[0], BaseModel):
        return [f"  {key}:", *(f"    - {_flow(item)}" for item in value)]
    return [f"  {key}: {_flow(value)}"]


def _flow(value: Any) -> str:
    """`value` in YAML's one-line style."""
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    return yaml.safe_dump([plain], default_flow_style=True, sort_keys=False, width=10_000, allow_unicode=True)[1:-2]


def try_settings(source: Path, profile: SourceProfile, columns: Columns | None, say: Say) -> Tried:
    """Trials on a sample of `source`; nothing is tried on too few images."""
    params, _ = suggest_params(profile)
    opened = open_source(source, columns, profile.layout)
    sample = draw_sample(opened, params.data.task, REACH if opened.manifests else None)
    if sample is None:
        return Tried(lines=[f"fewer than {ENOUGH} labelled images of two classes: no settings were tried"])
    return run_trials(sample, params, trainable_sizes(), say)


class Created(NamedTuple):
    """What `init_project` found and did."""

    notes: list[str]  # for the user
    labelled: bool  # whether any image has a label


def init_project(
    target: Path,
    source: Path,
    template: Path,
    columns: Columns | None = None,
    layout: str | None = None,
    say: Say | None = None,
    by_time: bool = False,
) -> Created:
    """Make a git repository at `target` from the template checkout, with params.yaml fitted to `source`.

    `layout` says what the paths of `source` mean (tasks.sources.layouts); params.yaml keeps it. With `say`, settings
    are tried on a sample and `say` shows how the source was read, then the progress; without, they are fitted to counts
    and sizes only. `by_time`: the newest images are test (data.split.by). The user's git configuration is not changed.
    Raises EvergreenError if `target` is not empty or lies inside the template, or if git fails; `target` is then left
    as it was.
    """
    existed = target.exists()
    if existed and (not target.is_dir() or any(target.iterdir())):
        raise EvergreenError(f"{target} is not empty: name a new folder for the project")
    if target.resolve().is_relative_to(template.resolve()):
        raise EvergreenError(f"{target} lies inside {template}: name a folder outside of it")
    profile = profile_source(source, columns, chosen_layout(layout))
    if (template / RECORD).is_file():
        raise EvergreenError(
            f"{template} is a project, whose changes are its own: run `evergreen init` of a clone of Evergreen instead"
        )
    if by_time and not profile.timed:
        raise EvergreenError(
            f"--by-time: none of {profile.rows} images of {source} has a time that can be read: bring times in a "
            "column taken_at or as {time} in the layout, or leave --by-time out"
        )
    files = needed_files(template)
    first = [*profile.understood, *_warnings(profile)]
    for line in first if say else ():  # before the user waits for trials of what was misunderstood
        say(line)
    tried = try_settings(source, profile, columns, say) if say else Tried()
    params, why = suggest_params(profile)
    if profile.name.lower() in NAMES_NOTHING:  # "labels" says nothing of the model
        params = with_values(params, {"bundle.name": slug(target.resolve().name)})
    params, why = with_values(params, tried.values), why | tried.why
    if by_time:
        params = with_values(params, {"data.split": params.data.split.model_dump() | {"by": "time"}})
        why["data.split"] = f"by time, as asked: {profile.timed} of {profile.rows} images have one, the newest are test"
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in files:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(template / name, target / name)
        (target / "params.yaml").write_text(_params_text(source, params, why), encoding="utf-8")
        (target / "README.md").write_text(_readme(target.resolve().name, source), encoding="utf-8")
        write_json(target / "tombstones.json", {}, tracked=True)
        notes = [*([] if say else first), *_first_commit(target, template, files), *tried.lines]
        return Created([*notes, *recommendations(params, why)], profile.labelled > 0)
    except BaseException:
        if target.is_dir():
            for entry in target.iterdir():
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
            if not existed:
                target.rmdir()
        raise


def recommendations(params: Params, why: dict[str, str]) -> list[str]:
    """The settings that matter most, each with the reason for its value in `why`."""
    split = params.data.split
    values = {
        "images.resolution": params.images.resolution,
        "images.fit": params.images.fit,
        "images.bit_depth": str(params.images.bit_depth),
        "train_backbone.augment": ", ".join(params.train_backbone.augment) or "none",
        "train_backbone.domain": params.train_backbone.domain or "null",
        "data.split": f"{split.train:g} train, {split.calibration:g} calibration, {split.test:g} test"
        + (", the newest" if split.by == "time" else ""),
    }
    return [f"{key}: {value}: {why[key]}" for key, value in values.items() if why.get(key)]


def _warnings(profile: SourceProfile) -> list[str]:
    """What will stop the first run, said before the user has waited for it."""
    notes = [*layout_notes(profile), *profile.group_notes, *hidden_group_notes(profile.pattern)]
    if not profile.classes:
        notes.append(
            f"note: none of {profile.rows:,} images has a label: people give the first ones (`evergreen queue "
            "--pick-data`). If they do have labels, name the column (--label) or say what paths mean (--layout)"
        )
    elif len(profile.classes) == 1:
        found = f"only one class, {next(iter(profile.classes))!r}"
        notes.append(f"note: there is {found}: a classifier needs images of at least two classes")
    few = sorted((count, name) for name, count in profile.classes.items() if count < 3)
    if few and len(profile.classes) > 1:
        shown = ", ".join(f"{name!r} {count}" for count, name in few[:5]) + (", ..." if len(few) > 5 else "")
        notes.append(f"note: classes with fewer than 3 images ({shown}) cannot be told apart well or tested")
    return notes


def _readme(name: str, source: Path) -> str:
    return f"""\
# {single_spaced(name)}

An image classifier kept true by Evergreen. Its first data: `{single_spaced(source.name)}`.

    make setup && . .venv/bin/activate   # the locked packages, once
    evergreen ingest FOLDER              # take images and labels into data/
    evergreen retrain                    # check, clean, train, gate and release what is new

`params.yaml` decides what happens; every key is explained in it.
"""


def _first_commit(target: Path, template: Path, files: list[str]) -> list[str]:
    git(target, "init", "--quiet", "--initial-branch=main")
    git(target, "add", "--all")
    staged = (entry.split("\t") for entry in git(target, "ls-files", "--stage", "-z").split("\0") if entry)
    ids = {name: about.split()[1] for about, name in staged}
    record = record_text(version_at(target), template_revision(template), {name: ids[name] for name in files})
    (target / RECORD).write_text(record, encoding="utf-8")
    git(target, "add", RECORD)
    notes, identity = [], []
    if not _has_identity(target):
        identity = ["-c", "user.name=Evergreen", "-c", "user.email=evergreen@localhost"]
        notes.append("git has no user.name and user.email: the first commit is by Evergreen <evergreen@localhost>")
    git(target, *identity, "-c", "commit.gpgsign=false", "commit", "--quiet", "--no-verify", "-m", STARTED)
    return notes


def _has_identity(target: Path) -> bool:
    """Has the user configured a name and an address? useConfigOnly keeps git from guessing them from the host."""
    try:
        git(target, "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT")
    except EvergreenError:
        return False
    return True
