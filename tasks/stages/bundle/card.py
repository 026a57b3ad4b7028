"""Render the model card (Mitchell et al. 2019, "Model cards for model reporting") from bundle.json.

Earlier stages counted or measured everything in it. Names come from users. They are escaped, because viewers read
the card as Markdown, and most also as HTML.
"""

from tasks.common.nested import flatten
from tasks.common.schemas import SPLITS
from tasks.common.text import escape_markdown

SECTIONS = (  # of metrics/evaluate.json
    ("test", "Test set"),
    ("skill", "Balanced accuracy on the test set against chance"),
    ("people", "Share of the images that people must see, for the other answers to be right in 90, 95, 99 % of cases"),
    ("hard", "Hard set"),
    ("shots", "Many-, medium- and few-shot classes"),
    ("conformal", "Sets of plausible classes"),
    ("slices", "Slices"),
    ("siblings", "Test images with and without a sibling in train (the same object, by file names or features)"),
    ("corruptions", "Corruptions"),
    ("latency_ms", "Latency of one image, milliseconds"),
    ("parity", "Exported model against trained model"),
)


def render(about: dict) -> str:
    """`about` (bundle.json) as Markdown."""
    evaluated = about["metrics"]["evaluate"]
    parts = [
        f"# {escape_markdown(about['name'])}",
        _purpose(about),
        *([_provisional(about)] if about.get("provisional") else []),
        "## Intended use",
        _intended(about),
        "## Data",
        _data(about),
        "## Performance",
        "Measured on the exported model. Shares are 0 to 1; nothing here was trained or calibrated on.",
    ]
    for key, title in SECTIONS:
        if evaluated.get(key):
            parts += [f"### {title}", _figures(evaluated[key])]
        elif key == "hard":
            parts += [f"### {title}", "There is none yet."]
    parts += _floors(about)
    parts += ["## Confidence and review", _confidence(about), "## Limits", _limits(about), "## Use", USE]
    return "\n\n".join(parts) + "\n"


def table(header: tuple[str, ...], rows: list[tuple]) -> str:
    """A Markdown table; this function escapes the cells."""
    lines = [header, ("---",) * len(header), *(tuple(_cell(value) for value in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) if isinstance(value, int) else escape_markdown(value)


def _purpose(about: dict) -> str:
    kind = "one label" if about["task"] == "multiclass" else "any number of labels"
    side = about["preprocess"]["resolution"]
    what = f"An image classifier: {side} x {side} pixels in, {kind} of {len(about['classes'])} classes out. "
    if adopted := about.get("adopted"):
        return what + (
            f"Adopted by Evergreen from {escape_markdown(adopted['file'])} (sha256 `{adopted['sha256']}`), where it "
            "was deployed. How and on what it was trained is not recorded here: images it was trained on may be among "
            "those it was measured on."
        )
    backbone, pretrained = (escape_markdown(about["backbone"][key]) for key in ("backbone", "pretrained"))
    head = about["metrics"].get("train_head", {})
    how = "trained on the natural mix of classes; its classifier was then fitted to a balanced one"
    if head.get("network") == "pretrained":
        how = (
            "as it came: on the calibration images a classifier on its frozen features was better than fine-tuning, by "
            f"{100 * head['probe_lead']:.1f} points"
        )
    return what + (
        f"Backbone {backbone} (pretrained: {pretrained}), {how}. Made by Evergreen"
        + (f" from commit `{about['git_revision']}`." if about["git_revision"] else ".")
    )


def _provisional(about: dict) -> str:
    return (
        f"**Provisional:** {about['provisional']}. It is better than nothing, not good: use its answers as suggestions "
        "until a better model replaces it."
    )


def _floors(about: dict) -> list[str]:
    """The floors that the gate holds this model to; their states follow from its verdict, which comes later."""
    floors = about["params"].get("gate", {}).get("floors") or []
    if not floors:
        return []
    rows = [(", ".join(f"{key}: {value}" for key, value in one.items() if value is not None),) for one in floors]
    said = "The gate holds every version to these bounds; the release report and `evergreen floors` say how it stands."
    return ["## Floors", said, table(("floor",), rows)]


def _intended(about: dict) -> str:
    each = "one" if about["task"] == "multiclass" else "any number"
    return (
        f"Naming what is in images like those it was trained on, {each} of the classes below an image, while people "
        "look at the answers it sends to them (see Confidence and review). Not intended: images of other kinds or from "
        "other sources without measuring it on them first, classes it does not have, and decisions about people in "
        "which no person has a say."
    )


def _data(about: dict) -> str:
    images = about["data"]["images"]
    rows = [(name, *(images[split][name] for split in SPLITS)) for name in about["classes"]]
    labels = about["metrics"].get("clean", {}).get("sentence")  # an adopted model's labels were not judged
    return (
        f"Data version `{about['data']['sha256']}`. "
        + (f"Of the labels, {escape_markdown(labels)}. " if labels else "")
        + "Labelled images of each class:\n\n"
        + table(("class", *SPLITS), rows)
    )


def _figures(found) -> str:
    """A table of nested figures; lists (curves, matrices) are left to the report."""
    figures = flatten(found, " / ")
    return table(
        ("figure", "value"),
        [(path, value) for path, value in figures.items() if value is not None and not isinstance(value, list | dict)],
    )


def _confidence(about: dict) -> str:
    calibrated = about["metrics"]["calibrate"]
    rows = [(name, float(about["thresholds"][name])) for name in about["classes"]]
    weights = about["weights"]
    weighted = len({weights[name] for name in about["classes"]}) > 1
    if weighted:
        rows = [(*row, float(weights[row[0]])) for row in rows]
    best = "class whose probability times its weight is largest" if weighted else "most probable class"
    rule = (
        f"The answer is the {best}. It goes to a human when it stays under its class's threshold or "
        "another class reaches its own."
        if about["task"] == "multiclass"
        else "The answer is every class that reaches its threshold. It goes to a human when a label was given "
        "though it is less likely than not."
    )
    told = calibrated["ood"].get("sentence")
    told = f" {escape_markdown(told)}" if told else ""
    sets = ""
    if about.get("conformal"):
        sets = (
            " Each answer comes with the classes that are plausible: of the images of each class, "
            f"{about['conformal']['coverage']:.0%} should have it in this set."
        )
    return (
        f"Probabilities are calibrated on {calibrated['images']} held-out images ({_scaling(about)}; expected "
        f"calibration error {calibrated['ece_before']:.4g} before and {calibrated['ece_after']:.4g} after). {rule} "
        f"Images with a {escape_markdown(about['ood']['method'])} score "
        f"above {about['ood']['threshold']:.4g} are flagged as unfamiliar: {calibrated['ood']['false_rejection']:.2%} "
        f"of the calibration images are.{told}{sets}\n\n"
        + table(("class", "threshold", "weight")[: 2 + weighted], rows)
    )


def _scaling(about: dict) -> str:
    method, temperature = about["scaling"]["method"], f"temperature {about['temperature']:.4g}"
    if method == "none":
        return "they were calibrated already, and nothing was changed"
    return temperature if method == "temperature" else f"{temperature}, and scaling of each class"


def _limits(about: dict) -> str:
    few = about["params"]["evaluate"]["few_shot"]
    rare = [name for name in about["classes"] if about["data"]["images"]["train"][name] < few]
    flagged = about["metrics"]["calibrate"]["ood"]["flagged"]
    lines = [
        "- It answers with one of its classes whatever it is shown; only the out-of-distribution flag says that an "
        "image is of another kind, and it misses many that look alike. "
        f"Of images of pure noise it flags {flagged['noise']:.0%}, of images of one flat colour {flagged['flat']:.0%}.",
        "- Its probabilities hold for images like those above, and for classes about as frequent as in the calibration "
        "images. Other cameras, places and times shift them.",
    ]
    if rare:
        names = ", ".join(escape_markdown(name) for name in rare)
        lines.append(f"- Fewer than {few} training images each: {names}. Their figures are uncertain.")
    return "\n".join(lines)


USE = """```python
from serving.predictor import Predictor

predictor = Predictor("path/to/this/folder")
(answer,) = predictor.predict([open("image.jpg", "rb").read()])
print(answer.label, answer.confidence, answer.plausible, answer.needs_review)
```

`model.onnx` takes uint8 images (N, S, S, 3) made by the `preprocess` spec in `bundle.json`. `weights.safetensors` holds
the same weights for further training. `MANIFEST.json` has the sha256 of every file; loading checks them."""
