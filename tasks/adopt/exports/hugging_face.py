"""Read a folder of the Hugging Face hub: a config, a processor, and weights as safetensors or ONNX.

Weights of `transformers` become ONNX in a child process; timm's have their own reader. Code in such a folder is never
run: `trust_remote_code` stays off, and pickles are not read.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.adopt.exports.facts import Facts, square, triple
from tasks.common.errors import EvergreenError
from tasks.common.files import read_json

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
KIND = "ForImageClassification"
CROPPED = 384  # ConvNeXT's processor cuts the middle below this side


def is_hugging_face(folder: Path) -> bool:
    """Whether `folder` has a config.json of a model of transformers or timm."""
    about = _read(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return "architectures" in about or "model_type" in about or "architecture" in about


def hugging_face_facts(folder: Path, model: Path) -> Facts:
    """Facts of the weights `model` in `folder`. Raises EvergreenError for what is not an image classifier."""
    about = _read(folder / CONFIG)
    if "architecture" in about:
        return _timm(about, folder / CONFIG, model)
    kinds = [str(one) for one in about.get("architectures") or []]
    if not any(one.endswith(KIND) for one in kinds):
        raise EvergreenError(
            f"{folder / CONFIG} describes {', '.join(kinds) or about.get('model_type')}: only image classifiers, whose "
            f"name ends with {KIND}, can be adopted"
        )
    facts = Facts(f"Hugging Face {kinds[0]}", model, _labels(about, folder / CONFIG))
    if (folder / PROCESSOR).is_file():
        facts = facts.filled(processor_facts(_read(folder / PROCESSOR), folder / PROCESSOR, model))
    size = about.get("image_size")
    return facts if size is None else facts.filled(Facts("", model, size=square(size, folder / CONFIG, "image_size")))


def processor_facts(about: Mapping[str, Any], file: Path, model: Path) -> Facts:
    """What a preprocessor_config.json says about size, cut and colours."""
    size, cut, notes = about.get("size"), about.get("crop_size"), []
    short = size.get("shortest_edge") if isinstance(size, dict) else None
    if isinstance(size, int) and about.get("crop_pct"):
        short = size
    fit = "squash"
    if about.get("do_center_crop") and cut is not None:
        side, fit = square(cut, file, "crop_size"), "crop"
        resized = short if short is not None else square(size, file, "size") if size is not None else side
        if resized != side:
            notes.append(_margin(resized, side))
        if short is None and size is not None:
            fit = "squash"
    elif short is not None:
        side = square(short, file, "size")
        fit = "crop" if side < CROPPED or about.get("crop_pct") is None else "squash"
        if fit == "crop" and (share := about.get("crop_pct")):
            notes.append(_margin(int(side / share), side))
    else:
        side = None if size is None else square(size, file, "size")
    factor = 255 * (about.get("rescale_factor", 1 / 255) if about.get("do_rescale", True) else 1)
    mean, std = [0.0] * 3, [1.0] * 3
    if about.get("do_normalize", True):
        mean = triple(about.get("image_mean", [0.5] * 3), file, "image_mean")
        std = triple(about.get("image_std", [0.5] * 3), file, "image_std")
    mean, std = [one / factor for one in mean], [one / factor for one in std]
    return Facts(
        "", model, None, side, mean, std, fit, bgr=bool(about.get("do_flip_channel_order")), notes=tuple(notes)
    )


def _margin(resized: int, side: int) -> str:
    return (
        f"its processor resizes to {resized} pixels and cuts {side} out of the middle; here the whole square is used, "
        "so answers can differ a little"
    )


def _labels(about: Mapping[str, Any], file: Path) -> list[str] | None:
    found = about.get("id2label")
    if not isinstance(found, dict):
        return None
    if sorted(found) != sorted(str(place) for place in range(len(found))):
        raise EvergreenError(f"{file}: id2label has keys {list(found)[:5]}: expected 0, 1, 2, ...")
    return [str(found[str(place)]) for place in range(len(found))]


def _timm(about: Mapping[str, Any], file: Path, model: Path) -> Facts:
    """A model of timm on the hub."""
    said = about.get("pretrained_cfg") or {}
    names = about.get("label_names") or said.get("label_names")
    size = said.get("input_size")
    colours = {name: triple(list(said[name]), file, name) for name in ("mean", "std") if said.get(name)}
    side = square(list(size)[1:], file, "input_size") if size else None
    fit = "squash" if said.get("crop_mode") == "squash" else "crop"
    return Facts(
        "Hugging Face timm", model, names, side, **colours, fit=fit, backbone=str(about["architecture"]), bgr=False
    )


def _read(file: Path) -> dict[str, Any]:
    try:
        found = read_json(file)
    except (OSError, ValueError) as error:
        raise EvergreenError(f"{file} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise EvergreenError(f"{file} holds {type(found).__name__}: expected an object")
    return found
