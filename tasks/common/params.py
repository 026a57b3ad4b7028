"""The schema of params.yaml: one section per stage, and every mistake reported at once.

Each field says what it does and what changing it costs; unknown keys are refused.

DVC decides from its own reading of params.yaml which stages run. So this module parses the text with DVC's parser,
and refuses whatever DVC would drop, mix up or fail on: see `_unsafe_for_dvc` and `load_run_params`.
"""

import difflib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from tasks.common.errors import ParamsError
from tasks.common.section import Section
from tasks.common.sections.data import (
    DataParams,
    ImagesParams,
    InspectParams,
    LabelsParams,
    ValidateParams,
    current_names,
)
from tasks.common.sections.judging import BundleParams, EvaluateParams, GateParams
from tasks.common.sections.predictor import PredictorParams, ReleaseParams
from tasks.common.sections.scale import ScaleParams
from tasks.common.sections.service import (
    AlertsParams,
    CaptureParams,
    DecideParams,
    DriftParams,
    ReportParams,
    ReviewParams,
    ServeParams,
    StoreParams,
)
from tasks.common.sections.training import (
    CalibrateParams,
    CleanParams,
    EmbedParams,
    TrainBackboneParams,
    TrainHeadParams,
)
from tasks.common.yaml_errors import yaml_problem

# sections that stages read; dvc.yaml names the same
STAGE_SECTIONS = (
    *("data", "images", "inspect", "labels", "validate", "embed", "clean", "train_backbone", "train_head"),
    *("calibrate", "evaluate", "bundle", "gate"),
)
DROPPED_BY_DVC = ("size", "nfiles")  # dvc/stage/cache.py leaves these keys out of the run cache's key, at any depth
DEEPEST = 20  # levels of nesting in params.yaml


class Params(Section):
    """All sections of params.yaml."""

    data: DataParams = DataParams()
    images: ImagesParams = ImagesParams()
    inspect: InspectParams = InspectParams()
    labels: LabelsParams = LabelsParams()
    validate_: ValidateParams = Field(alias="validate")
    embed: EmbedParams = EmbedParams()
    clean: CleanParams = CleanParams()
    train_backbone: TrainBackboneParams = TrainBackboneParams()
    train_head: TrainHeadParams = TrainHeadParams()
    calibrate: CalibrateParams = CalibrateParams()
    evaluate: EvaluateParams = EvaluateParams()
    bundle: BundleParams = BundleParams()
    gate: GateParams = GateParams()
    store: StoreParams = StoreParams()
    release: ReleaseParams = ReleaseParams()
    capture: CaptureParams = CaptureParams()
    drift: DriftParams = DriftParams()
    decide: DecideParams = DecideParams()
    review: ReviewParams = ReviewParams()
    report: ReportParams = ReportParams()
    serve: ServeParams = ServeParams()
    predictor: PredictorParams = PredictorParams()
    scale: ScaleParams = ScaleParams()
    alerts: AlertsParams = AlertsParams()

    def section(self, name: str) -> Section:
        """The section `name` of params.yaml (`validate` is the attribute `validate_`: pydantic owns that name)."""
        return getattr(self, "validate_" if name == "validate" else name)


def parse_params(values: Any, source: str = "params.yaml") -> Params:
    """`values` (the parsed YAML) as `Params`. Raises ParamsError listing every mistake with its path."""
    if not isinstance(values, dict):
        raise ParamsError(f"{source}: expected a mapping of sections, found {type(values).__name__}")
    lines = [f"  {path}: {problem}" for path, problem in _unsafe_for_dvc(values)]
    params = None
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        lines += [
            f"  {'.'.join(map(str, mistake['loc']))}: {_message(mistake)}{_found(mistake)}"
            for mistake in error.errors()
        ]
    if params is None or lines:
        raise ParamsError(f"{source} has {len(lines)} mistake(s):\n" + "\n".join(lines))
    return params


def _found(mistake: Any) -> str:
    """The value that is wrong; nothing where several settings exclude each other, which the message names."""
    several = mistake["type"] == "value_error" and isinstance(mistake["input"], dict)
    return "" if several else f" (found {repr(mistake['input'])[:80]})"


def _unsafe_for_dvc(values: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    """(path, problem) of each value that DVC cannot read or cannot tell from another value.

    DVC compares params with ==, hashes them as JSON with sorted keys, and leaves out the keys DROPPED_BY_DVC. A
    change hidden in this way would restore the outputs of other params. DVC also fails on dates anywhere.
    """
    for section, value in values.items():
        if section == "images" and isinstance(value, dict):
            value = {key: inner for key, inner in value.items() if key != "size"}  # `load_run_params` refuses this one
        yield from _unsafe(value, (str(section),))


def _unsafe(value: Any, path: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    where = ".".join(path)
    if len(path) > DEEPEST:
        yield where, f"nested more than {DEEPEST} levels deep: is an anchor part of itself?"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield where, f"the key {key!r} is not text, and DVC may take it for another: put it in quotes"
            elif key in DROPPED_BY_DVC:
                yield where, _dropped(key, path)
            yield from _unsafe(inner, (*path, str(key)))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _unsafe(inner, (*path, str(place)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield where, f"expected a finite number, found {value}"
    elif not (value is None or isinstance(value, str | int | float)):
        yield where, f"expected text, a number or true/false, found {value!r} ({type(value).__name__}): quote it"


def _dropped(key: str, path: tuple[str, ...]) -> str:
    """Why `key` is refused at `path`, and what to write instead."""
    if path == ("calibrate", "cost_false_negative"):
        instead = f"write the costs as a list: [{{class: {key}, cost: ...}}]"
    else:
        instead = "use another name"
    return f"DVC ignores keys named {key!r}, so a change of this one would retrain nothing: {instead}"


def _message(mistake: Any) -> str:
    """What is wrong, in plain words; for an unknown key, the similar key that may be meant."""
    if mistake["type"] != "extra_forbidden":
        return _plain(mistake["msg"])
    *above, key = mistake["loc"]
    section: Any = Params
    for part in above:
        fields = getattr(section, "model_fields", {})
        field = fields.get("validate_" if part == "validate" else part)
        section = field.annotation if field else None
    names = [field.alias or name for name, field in getattr(section, "model_fields", {}).items()]
    close = difflib.get_close_matches(str(key), names, 1)
    return f"there is no such key{f', is {close[0]!r} meant?' if close else ''}"


def _plain(text: str) -> str:
    """pydantic's message as a sentence about a setting."""
    for theirs, ours in (
        ("Input should be a valid ", "expected a valid "),
        ("Input should be ", "expected "),
        ("Value error, ", ""),
        ("Field required", "this key is missing"),
        ("unable to parse string as ", "the text is not "),
    ):
        text = text.replace(theirs, ours)
    return text


def current_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Stored params, as parsed or as recorded in a bundle, with today's names; unchecked otherwise."""
    images = values.get("images")
    if not isinstance(images, Mapping):
        return dict(values)
    try:
        return {**values, "images": current_names(images)}
    except ValueError as error:
        raise ParamsError(f"images: {error}") from None


def load_params(path: Path | str) -> Params:
    """Read and check params.yaml. Raises ParamsError for unreadable YAML and for every mistake at once."""
    return parse_params(read_values(path), str(path))


def load_run_params(path: Path | str) -> Params:
    """`load_params` for stages: also refuse what DVC would not notice or fail on. Raises ParamsError.

    Stored params may say `images.size`; those that stages are about to run with may not, because DVC does not see a
    change of it. DVC also fails on a section that dvc.yaml names and params.yaml lacks, after the stage has run.
    """
    values = read_values(path)
    params = parse_params(values, str(path))
    if "size" in values.get("images", {}):
        raise ParamsError(
            f"{path} says images.size ({params.images.resolution}), the old name of images.resolution. DVC ignores "
            "keys named `size`, so a change of it would retrain nothing: rename it to `resolution` and "
            "commit"
        )
    if missing := [name for name in STAGE_SECTIONS if name not in values]:
        raise ParamsError(
            f"{path} lacks the section(s) {', '.join(missing)}, which stages read: DVC needs them written out. Add "
            f"them, with their defaults for example: {_defaults(params, missing[0])}"
        )
    return params


def _defaults(params: Params, name: str) -> str:
    return f"{name}: {params.section(name).model_dump(mode='json')}"


def read_values(path: Path | str) -> Any:
    """params.yaml at `path` as DVC reads it. Raises ParamsError for a missing, unreadable or empty file."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ParamsError(f"{path} not found: run inside an Evergreen project") from None
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path} is not valid YAML in UTF-8: {error}") from None
    values = parse_text(text, str(path))
    if values is None:
        raise ParamsError(f"{path} is empty: expected a mapping of sections; `git checkout {path.name}` brings it back")
    return values


def parse_text(text: str, source: str = "params.yaml") -> Any:
    """The YAML `text` as DVC reads it (YAML 1.2: `on` is text, 1e-3 a number, 010 ten). Raises ParamsError."""
    from ruamel.yaml import YAML, YAMLError

    from tasks.common.yaml_bounds import bound_passed

    if problem := bound_passed(text):
        raise ParamsError(f"{source} cannot be read: {problem}: expected a mapping of sections")
    try:
        return YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:  # ValueError: a date that does not exist, say
        raise ParamsError(f"{source} is not valid YAML: {yaml_problem(text, error)}") from None
