"""Score features with pytorch-ood: run by benchmarks.ood under the Python of an environment that has it.

    PYTHON -m benchmarks.ood_peer IN.npz OUT.npz

IN has x (M, D), y (M,), weight (K, D), bias (K,), known (N, D), near (N, D); explained;
OUT has {method}-known and {method}-near.
"""

import sys

import numpy as np


def main() -> None:
    from tasks.backbones.torchvision_ops import make_timm_importable

    make_timm_importable()
    import torch
    from pytorch_ood.detector import KNN, RMD, EnergyBased, Mahalanobis, ViM

    torch.set_default_dtype(torch.float64)
    given = dict(np.load(sys.argv[1]))
    x, y = torch.tensor(given["x"], dtype=torch.float64), torch.tensor(np.unique(given["y"], return_inverse=True)[1])
    weight, bias = torch.tensor(given["weight"], dtype=torch.float32), torch.tensor(given["bias"], dtype=torch.float32)
    detectors = {
        "knn": KNN(None, k=10, normalize=True).fit_features(x, y),
        "mahalanobis": Mahalanobis(None).fit_features(x, y),
        "rmds": RMD(None).fit_features(x, y),
        "vim": ViM(None, d=int(given["explained"]), w=weight, b=bias).fit_features(x.float(), y),
    }
    found = {}
    for part in ("known", "near"):
        z = torch.tensor(given[part], dtype=torch.float64)
        for name, detector in detectors.items():
            found[f"{name}-{part}"] = detector.predict_features(z.float() if name == "vim" else z).numpy()
        found[f"energy-{part}"] = EnergyBased.score(z.float() @ weight.T + bias).numpy()
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
