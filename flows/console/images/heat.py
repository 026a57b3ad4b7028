"""Where the live model looked on one image (Grad-CAM): computed once, in a child process.

    .evergreen/console/heat/<bundle>/<id>.webp   the picture
    .evergreen/console/heat/<bundle>/<id>.json   {"class": what it speaks for, "said": a sentence}

python -m flows.console.images.heat ID       (in the project's folder: the child, which imports torch)
"""

import functools
import io
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from flows.repo.objects import ObjectLost, open_objects, outs_at
from tasks.common.errors import EvergreenError
from tasks.common.files import atomic_path, write_json
from tasks.common.paths import cache_dir, main_checkout, project_root, state_dir
from tasks.common.private import make_folder
from tasks.releases import bundle_store
from tasks.releases.pointer import Pointer
from tasks.releases.store import Releases

MOST = 20  # images that wait to be computed at the same time
SECONDS = 300  # of the child: importing torch on a busy machine takes half a minute
FOLDERS = ("artifacts/train_backbone", "artifacts/train_head")
NO_NETWORK = "The network of {version} is not stored here, only its exported model: where it looked cannot be shown."
NO_MAP = "{backbone} has no map of places: where it looked cannot be shown."
BUSY = "Many others are being computed: look again in a few minutes."
FAILED = "It could not be computed: the image or the network cannot be read."


@dataclass(frozen=True)
class Heat:
    """What is known about one image."""

    state: str  # "shown", "none" or "working"
    said: str = ""
    label: str = ""  # the class that the places speak for


class HeatMaker:
    """Computes one picture at a time, in the background. A failure is remembered until the web server ends."""

    def __init__(self, root: Path):
        self._root = root
        self._one = threading.Lock()  # held while a child works
        self._working: set[str] = set()
        self._failed: set[tuple[str, str]] = set()  # (bundle, image)
        self._lock = threading.Lock()

    def look(self, image: str, live: Pointer | None) -> Heat:
        """What is there, or is being made from now on."""
        if live is None:
            return Heat("none", "There is no live model yet.")
        if (found := _read(self._root, live, image)) is not None:
            return found
        with self._lock:
            if (live.bundle, image) in self._failed:
                return Heat("none", FAILED)
            if image not in self._working:
                if len(self._working) >= MOST:
                    return Heat("none", BUSY)
                self._working.add(image)
                threading.Thread(target=self._make, args=[image, live], daemon=True, name="heat").start()
        return Heat("working")

    def _make(self, image: str, live: Pointer) -> None:
        command = [sys.executable, "-P", "-m", "flows.console.images.heat", image]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        try:
            with self._one:
                subprocess.run(
                    command, cwd=self._root, env=environment, timeout=SECONDS, capture_output=True,
                    stdin=subprocess.DEVNULL,
                )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            pass
        finally:
            with self._lock:
                self._working.discard(image)
                if _read(self._root, live, image) is None:
                    self._failed.add((live.bundle, image))


@functools.cache
def heat_of(root: Path) -> HeatMaker:
    """The maker of the project at `root`; every request shares it, so that one image is computed at a time."""
    return HeatMaker(root)


def picture(root: Path, live: Pointer, image: str) -> bytes | None:
    """The picture of an image, if it was made."""
    file = _folder(root, live) / f"{image}.webp"
    return file.read_bytes() if file.is_file() else None


def _folder(root: Path, live: Pointer) -> Path:
    return state_dir(root) / "console" / "heat" / live.bundle[:16]


def _read(root: Path, live: Pointer, image: str) -> Heat | None:
    file = _folder(root, live) / f"{image}.json"
    try:
        about = json.loads(file.read_bytes())
        return Heat("shown" if about["class"] else "none", str(about["said"]), str(about["class"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(root: Path, live: Pointer, image: str, label: str, said: str) -> None:
    folder = _folder(root, live)
    make_folder(folder)
    write_json(folder / f"{image}.json", {"class": label, "said": said})


# --- the child


def compute(root: Path, image: str) -> None:
    """Write the picture of `image` for the live model, or the sentence why there is none."""
    from flows.console.images.pictures import pictures_of
    from flows.publishing.history import open_project

    params, releases = open_project(root)
    live = releases.live()
    if live is None:
        return
    about, network = _about(releases, live), _network(root, live)
    if network is None:
        _write(root, live, image, "", NO_NETWORK.format(version=live.version))
        return
    found = pictures_of(root).encoded(image)
    if found is None:
        _write(root, live, image, "", "The image itself is not stored any more.")
        return
    label, content, backbone = _heat(network, about["classes"], found[0], params.images.max_pixels)
    if content is None:
        _write(root, live, image, "", NO_MAP.format(backbone=backbone))
        return
    folder = _folder(root, live)
    make_folder(folder)
    with atomic_path(folder / f"{image}.webp") as temporary:
        temporary.write_bytes(content)
    _write(root, live, image, label, f"Where {live.version} looked for {label}: the brighter, the more it counted.")


def _about(releases: Releases, live: Pointer) -> dict:
    content = bundle_store.read_file(releases.store, live.bundle, "bundle.json")
    if content is None:
        raise EvergreenError(f"the bundle of {live.version} is not in the release store")
    return json.loads(content)


def _network(root: Path, live: Pointer) -> Path | None:
    """A folder with the live model's network and head under artifacts/; None if they are not here."""
    try:
        outs = outs_at(root, live.git_rev)
    except EvergreenError:
        outs = {}
    if any(name not in outs for name in FOLDERS):
        return root if all((root / name).is_dir() for name in FOLDERS) else None
    folder = cache_dir("heat", root) / live.bundle[:16]
    with open_objects(main_checkout(root)) as objects:
        try:
            for name in FOLDERS:
                for path, oid in objects.files(outs[name]).items():
                    if not (folder / name / path).is_file():
                        with atomic_path(folder / name / path) as temporary:
                            objects.copy(oid, temporary)
        except ObjectLost:
            return None
    return folder


def _heat(network: Path, classes: list[str], encoded: bytes, max_pixels: int) -> tuple[str, bytes | None, str]:
    """(the most probable class, the picture as WebP or None, the backbone)."""
    import torch
    from PIL import Image

    from tasks.backbones import timm_models
    from tasks.dataset.decode import preprocess
    from tasks.models import grad_cam, stage1
    from tasks.models.head import read_head

    model, about = stage1.load(network)
    head = read_head(network)
    pixels = preprocess(encoded, about["resolution"], about["fit"], max_pixels)[None]
    with torch.no_grad():
        x = timm_models.to_input(pixels, about["mean"], about["std"], timm_models.device())
        features = timm_models.features(model.to(timm_models.device()), x).cpu().numpy()
    code = int(head.logits(features)[0].argmax())
    heat = grad_cam.grad_cam(model, about, head.weight, head.bias, pixels, [code])
    if heat is None:
        return classes[code], None, about["backbone"]
    shown = Image.fromarray(grad_cam.overlay(pixels, heat)[0])
    side = max(shown.size)
    shown = shown.resize((480 * shown.width // side, 480 * shown.height // side), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=88)
    return classes[code], buffer.getvalue(), about["backbone"]


if __name__ == "__main__":
    compute(project_root(), sys.argv[1])
