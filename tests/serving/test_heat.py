"""Heat of exported models, against gradients by torch and against where the class is."""

import numpy as np
import torch

from serving.heat import Heat, occlusion
from tasks.inference.onnx_model import OnnxModel

S, K = 64, 3


class Net(torch.nn.Module):
    """(N, S, S, 3) uint8 -> logits, probabilities, features, with a map of 16 x 16 places."""

    def __init__(self, spread: bool = False):
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 8, 4, 2), torch.nn.ReLU())
        self.head, self.spread = torch.nn.Linear(8, K), spread

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        maps = self.body(images.permute(0, 3, 1, 2).float() / 255)
        features = maps.amax(dim=(2, 3)) if self.spread else torch.nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1)
        logits = self.head(features)
        return logits, logits.softmax(1), features


class Exported:
    """What Heat asks of a predictor."""

    def __init__(self, folder, net: Net):
        self.folder = folder
        names = ["logits", "probabilities", "features"]
        axes = {name: {0: "batch"} for name in ["images", *names]}
        sample = torch.zeros(2, S, S, 3, dtype=torch.uint8)
        torch.onnx.export(
            net,
            (sample,),
            str(folder / "model.onnx"),
            input_names=["images"],
            output_names=names,
            dynamic_axes=axes,
            dynamo=False,
        )
        self.predict_pixels = OnnxModel(folder / "model.onnx")


def image() -> np.ndarray:
    """Grey with a noisy square, upper left."""
    found = np.full((S, S, 3), 128, np.uint8)
    found[8:24, 8:24] = np.random.default_rng(0).integers(0, 256, (16, 16, 3))
    return found


def test_cam_is_grad_cam(tmp_path):
    net, pixels = Net(), image()
    maps = net.body(torch.from_numpy(pixels[None]).permute(0, 3, 1, 2).float() / 255)
    logits = net.head(maps.mean(dim=(2, 3)))
    heat_of = Heat(Exported(tmp_path, net))
    for k in range(K):
        (slope,) = torch.autograd.grad(logits[0, k], maps, retain_graph=True)
        expected = (slope.mean(dim=(2, 3), keepdim=True) * maps).sum(1).clamp(min=0)[0].detach().numpy()
        found, method = heat_of(pixels, k)
        assert (method, found.shape) == ("cam", (S, S))
        assert 0 <= found.min() <= found.max() <= 1 + 1e-6
        small = heat_of._cam(pixels, k)
        np.testing.assert_allclose(small / max(small.max(), 1e-12), expected / max(expected.max(), 1e-12), atol=1e-4)


def test_other_networks_are_covered_window_by_window(tmp_path):
    predictor, pixels = Exported(tmp_path, Net(spread=True)), image()
    heat, method = Heat(predictor)(pixels, 0)
    assert (method, heat.shape) == ("occlusion", (S, S))
    k = int(np.argmax([occlusion(predictor, pixels, k).sum() for k in range(K)]))
    found = occlusion(predictor, pixels, k)
    assert found[:4, :4].sum() > 0.99 * found.sum() > 0  # only the square differs from the grey that covers
