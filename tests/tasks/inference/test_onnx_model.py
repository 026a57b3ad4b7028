"""The exported model under ONNX Runtime: its threads."""

import pytest

from tasks.inference.onnx_model import OnnxModel
from tests.support.small_project import finished_project


@pytest.mark.parametrize("threads", [1, 2])
def test_it_has_the_threads_that_are_asked_for_and_they_do_not_spin(threads):
    model = OnnxModel(finished_project() / "artifacts/calibrate/model.onnx", threads)
    options = model._session.get_session_options()
    assert options.intra_op_num_threads == threads
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
