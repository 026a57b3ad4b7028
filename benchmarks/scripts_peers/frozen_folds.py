"""Out-of-fold probabilities from logistic regression on features of the frozen network, cached by file."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.scripts_peers import file_cache

FOLDS = 5


def out_of_fold(side: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, K) probabilities and (N,) labels of the training photos."""
    x, labels = file_cache.features("train", side)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return cross_val_predict(model, x, labels, cv=folds, n_jobs=-1, method="predict_proba"), labels
