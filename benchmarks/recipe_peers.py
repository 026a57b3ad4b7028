"""What a competent person would do in the same time: fine-tune with a timm script, plain or strong, or fit a probe.

N images, K classes, S the side of the input in pixels. Both peers see the same rows, split and pretrained weights as
the recipe, with the labels as given.
"""

import math
import random
import time
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tasks.scoring.metrics import balanced_accuracy

BATCH = 64
RATE, DECAY = 1e-3, 0.05  # AdamW, as scripts for short fine-tuning have it
WARM_UP = 0.05  # of the time
SCALE = (0.5, 1.0)  # of RandomResizedCrop: its default of (0.08, 1) needs many more epochs
STRENGTHS = (0.01, 0.1, 1.0)  # C of the logistic regression


@dataclass(frozen=True)
class Part:
    """Images of one split: decoded, of any size, with their class numbers (N,)."""

    images: list[Image.Image]
    targets: np.ndarray


@dataclass(frozen=True)
class Script:
    """What a script does beyond the plain one."""

    rand_augment: str | None = None  # timm's name of the policy
    balanced: bool = False  # draw every class equally often
    ema: float | None = None  # decay of the average of the weights, which is then judged


PLAIN = Script()
STRONG = Script(rand_augment="rand-m9-n2-inc1", balanced=True, ema=0.98)  # EMA: over some 50 steps of hundreds


def fine_tune(
    parts: dict[str, Part], classes: int, side: int, backbone: str, seconds: float, seed: int, script: Script = PLAIN
) -> tuple:
    """(balanced accuracy on test, epochs, CPU seconds) of fine-tuning all layers for about `seconds` of CPU time.

    AdamW, warm-up and cosine over the time, random crops and flips from the whole image, the best epoch on
    calibration. The last epoch may be a part of one.
    """
    import torch
    from torch.nn.functional import cross_entropy

    from tasks.backbones import timm_models

    torch.manual_seed(seed)
    random.seed(seed)  # timm's RandAugment draws from here
    model = timm_models.create_model(backbone, "auto", classes, side)
    changed, plain = transforms(backbone, side, script)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    average = weight_average(model, script)
    judged = model if average is None else average.module

    def batch(part: Part, rows: np.ndarray, transform) -> torch.Tensor:
        x = torch.stack([transform(part.images[row]) for row in rows])
        return x.contiguous(memory_format=torch.channels_last)

    def predict(part: Part) -> np.ndarray:
        judged.eval()
        groups = np.array_split(np.arange(len(part.targets)), math.ceil(len(part.targets) / BATCH))
        with torch.inference_mode():
            return np.concatenate([judged(batch(part, rows, plain)).argmax(dim=1).numpy() for rows in groups])

    def score(part: Part) -> float:
        return balanced_accuracy(part.targets, predict(part), classes)

    train, began, spent, epochs = parts["train"], time.process_time(), 0.0, 0.0
    best, kept = -1.0, {}
    steps, done = math.ceil(len(train.targets) / BATCH), 0
    order = np.random.default_rng(seed)
    while spent < seconds:
        model.train()
        for rows in np.array_split(epoch_order(train.targets, order, script.balanced), steps):
            share = spent / seconds
            factor = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
            for group in optimizer.param_groups:
                group["lr"] = RATE * factor
            loss = cross_entropy(model(batch(train, rows, changed)), torch.from_numpy(train.targets[rows]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            done += 1
            if average is not None:
                average.update(model, done)
            epochs += 1 / steps
            if (spent := time.process_time() - began) >= seconds:
                break
        if (now := score(parts["calibration"])) >= best:
            best, kept = now, {name: value.clone() for name, value in judged.state_dict().items()}
        spent = time.process_time() - began
    judged.load_state_dict(kept)
    return score(parts["test"]), round(epochs, 2), spent


def transforms(backbone: str, side: int, script: Script) -> tuple:
    """(for training, for judging): from a PIL image of any size to a tensor (3, S, S)."""
    from tasks.backbones import timm_models
    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()
    from torchvision import transforms as made

    mean, std = timm_models.normalisation(backbone)
    scaled = [made.ToTensor(), made.Normalize(mean, std)]
    policy = []
    if script.rand_augment:
        from timm.data.auto_augment import rand_augment_transform

        grey = tuple(round(255 * value) for value in mean)
        policy = [rand_augment_transform(script.rand_augment, {"translate_const": int(0.45 * side), "img_mean": grey})]
    changed = [made.RandomResizedCrop(side, SCALE), made.RandomHorizontalFlip(), *policy, *scaled]
    return made.Compose(changed), made.Compose([made.Resize((side, side)), *scaled])


def weight_average(model, script: Script):
    """timm's average of the weights; None if the script keeps none. It follows faster in the first steps."""
    if script.ema is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=script.ema, use_warmup=True)


def epoch_order(targets: np.ndarray, rng: np.random.Generator, balanced: bool) -> np.ndarray:
    """The rows (N,) of one epoch: each once, or drawn with the same chance for every class, as a weighted sampler."""
    if not balanced:
        return rng.permutation(len(targets))
    share = 1 / np.bincount(targets)[targets]
    return rng.choice(len(targets), len(targets), p=share / share.sum())


def linear_probe(features: dict[str, np.ndarray], targets: dict[str, np.ndarray], classes: int) -> tuple:
    """(balanced accuracy on test, C, CPU seconds) of logistic regression on frozen features, C chosen on calibration.

    `features`: split -> (N, D); `targets`: split -> (N,).
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    began = time.process_time()
    scaler = StandardScaler().fit(features["train"])
    x = {split: scaler.transform(values).astype(np.float32) for split, values in features.items()}
    found = []
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=200).fit(x["train"], targets["train"])
        found.append((balanced_accuracy(targets["calibration"], model.predict(x["calibration"]), classes), model))
    model = max(found, key=lambda one: one[0])[1]
    seconds = time.process_time() - began
    return balanced_accuracy(targets["test"], model.predict(x["test"]), classes), model.C, seconds
