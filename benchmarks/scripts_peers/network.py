"""Fine-tune a pretrained timm network for a given time, and predict with it. N photos, K classes."""

import math
import os
import threading
import time

import numpy as np
import torch
from sklearn.metrics import balanced_accuracy_score
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset

# in place of timm.create_model(BACKBONE, pretrained=True, num_classes=K): the same weights without a network
from tasks.backbones.timm_models import create_model

BACKBONE = "tf_efficientnet_lite0"
BATCH, RATE, DECAY, WARM_UP = 64, 1e-3, 0.05, 0.05


def leave_quietly(_: int) -> None:
    """In a worker: drop the exit functions of Prefect, which fail in a forked process and end the training with it."""
    threading._threading_atexits.clear()


def load(data: Dataset, train: bool) -> DataLoader:
    workers = os.cpu_count() or 1
    short = train and len(data) > BATCH  # a last batch of one photo has no variance for batch norm
    return DataLoader(
        data, BATCH, train, num_workers=workers, persistent_workers=train, drop_last=short, worker_init_fn=leave_quietly
    )


def fit(train: Dataset, val: Dataset | None, classes: int, side: int, seconds: float) -> torch.nn.Module:
    """AdamW, warm-up and cosine over `seconds`; the best epoch on `val`, without it the last."""
    began = time.monotonic()
    torch.manual_seed(0)
    model = create_model(BACKBONE, "auto", classes, side)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=DECAY)
    batches = load(train, train=True)
    best, kept, share = -1.0, model.state_dict(), 0.0
    while share < 1:
        model.train()
        for x, y in batches:
            factor = share / WARM_UP if share < WARM_UP else 0.5 * (1 + math.cos(math.pi * share))
            for group in optimizer.param_groups:
                group["lr"] = RATE * factor
            loss = cross_entropy(model(x.contiguous(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            share = min(1.0, (time.monotonic() - began) / seconds)
            if share == 1:
                break
        if val is not None:
            probabilities, truth = predict(model, val)
            if (score := balanced_accuracy_score(truth, probabilities.argmax(axis=1))) >= best:
                best, kept = score, {name: value.clone() for name, value in model.state_dict().items()}
        share = min(1.0, (time.monotonic() - began) / seconds)
    if val is not None:
        model.load_state_dict(kept)
    return model


def predict(model: torch.nn.Module, data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) probabilities and (N,) class numbers of `data`."""
    model.eval()
    found, truth = [], []
    with torch.inference_mode():
        for x, y in load(data, train=False):
            found.append(model(x.contiguous(memory_format=torch.channels_last)).softmax(dim=1).numpy())
            truth.append(y.numpy())
    return np.concatenate(found), np.concatenate(truth)
