"""Grad-CAM: the heat lies where the thing lies that the answer hangs on."""

import numpy as np
import pytest

from tasks.models.maps import as_map

SIZE, PATCH = 64, 16
MEAN = STD = (0.5, 0.5, 0.5)
ABOUT = {"mean": MEAN, "std": STD}


def planted(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pixels, class, top-left corner): noise with one patch of stripes, whose direction is the class."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 166, (n, SIZE, SIZE, 3), dtype=np.uint8)
    labels = np.arange(n) % 2
    corners = rng.integers(0, (SIZE - PATCH) // 8 + 1, (n, 2)) * 8
    stripes = np.where(np.arange(PATCH) // 2 % 2, 255, 0).astype(np.uint8)
    for image, label, (top, left) in zip(pixels, labels, corners, strict=True):
        patch = np.broadcast_to(stripes[:, None] if label else stripes[None, :], (PATCH, PATCH))
        image[top : top + PATCH, left : left + PATCH] = patch[..., None]
    return pixels, labels, corners


def trained(model, classes: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """A linear classifier (weight, bias) on the features of 64 planted images, by ridge regression."""
    from tasks.backbones.frozen import TorchFeatures

    pixels, labels, _ = planted(64, seed=1)
    x = TorchFeatures(model, MEAN, STD)(pixels).astype(np.float64)
    mean, std = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / std
    truth = np.eye(classes)[labels] - 1 / classes
    weight = np.linalg.solve(z.T @ z + 50 * np.eye(z.shape[1]), z.T @ truth) / std[:, None]
    return weight.T, -mean @ weight


def share_inside(heat: np.ndarray, corners: np.ndarray, border: int = 8) -> np.ndarray:
    """Of each image's heat, the share that lies on its patch or within `border` pixels of it."""
    inside = []
    for one, (top, left) in zip(heat, corners, strict=True):
        box = one[max(0, top - border) : top + PATCH + border, max(0, left - border) : left + PATCH + border]
        inside.append(box.sum() / one.sum())
    return np.array(inside)


def test_the_heat_lies_on_the_planted_patch():
    from tasks.backbones import timm_models
    from tasks.models import grad_cam

    model = timm_models.create_model("tf_efficientnet_lite0", "auto", 2, SIZE)
    weight, bias = trained(model)
    pixels, labels, corners = planted(24)
    heat = grad_cam.grad_cam(model, ABOUT, weight, bias, pixels, labels)
    assert heat.shape == (24, SIZE, SIZE)
    assert heat.dtype == np.float32
    assert heat.min() >= 0
    assert heat.max() <= 1
    inside = share_inside(heat, corners)
    chance = share_inside(np.ones_like(heat), corners)
    assert np.median(inside) > 2.5 * np.median(chance), (inside, chance)
    hottest = [np.unravel_index(one.argmax(), one.shape) for one in heat]
    hits = [
        top - 8 <= y < top + PATCH + 8 and left - 8 <= x < left + PATCH + 8
        for (y, x), (top, left) in zip(hottest, corners, strict=True)
    ]
    assert np.mean(hits) >= 0.75, np.mean(hits)


def test_what_is_asked_for_decides_the_heat():
    """The other class's heat must not be the same picture: else it would say nothing about the answer."""
    from tasks.backbones import timm_models
    from tasks.models import grad_cam

    model = timm_models.create_model("tf_efficientnet_lite0", "auto", 2, SIZE)
    weight, bias = trained(model)
    pixels, labels, corners = planted(8)
    own = grad_cam.grad_cam(model, ABOUT, weight, bias, pixels, labels)
    other = grad_cam.grad_cam(model, ABOUT, weight, bias, pixels, 1 - labels)
    assert np.abs(own - other).mean() > 0.05
    assert np.nanmedian(share_inside(own, corners)) > np.nanmedian(share_inside(other + 1e-9, corners))


@pytest.mark.parametrize("backbone", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_networks_of_all_kinds_have_heat(backbone):
    """Maps, channels-last maps, and tokens with and without a class token; weights at random."""
    import torch

    from tasks.backbones import timm_models
    from tasks.models import grad_cam

    torch.manual_seed(0)
    size = 224 if backbone.startswith("swin") else SIZE
    model = timm_models.create_model(backbone, "none", 3, size)
    head = timm_models.classifier(model)
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    heat = grad_cam.grad_cam(model, ABOUT, weight, bias, pixels, [0, 2])
    assert heat.shape == (2, size, size)
    assert np.isfinite(heat).all()
    assert heat.max() == pytest.approx(1)


def test_tokens_are_laid_out_as_the_image_is():
    import torch

    class Model:
        num_prefix_tokens = 1

        class patch_embed:
            grid_size = (2, 3)

    tokens = torch.tensor([[[9.0], [0], [1], [2], [3], [4], [5]]])  # the class token, then rows from the top
    assert as_map(tokens, 1, Model).tolist() == [[[[0, 1, 2], [3, 4, 5]]]]
    assert as_map(tokens[:, :5], 1, Model) is None


def test_a_network_without_places_says_so():
    import torch

    from tasks.models import grad_cam

    class Flat(torch.nn.Module):
        feature_info = [{"num_chs": 4, "reduction": 1, "module": "layer"}]

        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3 * 64, 4)

        def forward_features(self, x):
            return self.layer(x.flatten(1))

        def forward_head(self, x, pre_logits):
            return x

    pixels = np.zeros((1, 8, 8, 3), np.uint8)
    assert grad_cam.grad_cam(Flat(), ABOUT, np.ones((2, 4)), np.zeros(2), pixels, [0]) is None


def test_overlay_warms_where_the_heat_is():
    from tasks.models.grad_cam import overlay

    pixels = np.full((1, 4, 4, 3), 128, np.uint8)
    heat = np.zeros((1, 4, 4), np.float32)
    heat[0, 0, 0] = 1
    shown = overlay(pixels, heat).astype(int)
    assert shown.shape == pixels.shape
    assert shown[0, 0, 0, 0] - shown[0, 0, 0, 2] > 100
    assert len(set(shown[0, 3, 3])) == 1
