"""What a model says of an image, read from the files of a run."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.console.index.opinions import ABOUT, PREDICTIONS, read_opinions
from tasks.common.schemas import predictions_schema


@pytest.mark.parametrize(("weights", "said", "sure"), [(None, "ok", 0.7), ({"crack": 4.0}, "crack", 0.3)])
def test_an_opinion_is_the_answer_that_the_costs_of_the_model_give(weights, said, sure):
    row = {"id": "a", "split": "test", "label": "ok", "probabilities": [0.3, 0.7], "ood": 0.1}
    content = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row], predictions_schema("multiclass")), content)
    about = {"classes": ["crack", "ok"], "thresholds": {"crack": 0.2, "ok": 0.5}, "weights": weights}
    files = {ABOUT: json.dumps(about).encode(), PREDICTIONS: content.getvalue()}
    _, found = read_opinions(files, "multiclass")
    assert (found["a"].predicted, found["a"].confidence) == (said, pytest.approx(sure))
