"""A run with a floor or cost of something unknown ends after `validate`, before anything is trained."""

from types import SimpleNamespace

import pytest

from flows.runs import retrain
from tasks.common.errors import ParamsError
from tasks.common.floors import Floor
from tasks.common.params import load_params
from tests.support.small_project import finished_project


@pytest.mark.parametrize("stage", ["inspect", "validate", "embed"])
def test_floors_are_compared_with_the_data_as_soon_as_it_is_validated(stage, monkeypatch):
    root = finished_project()
    params = load_params(root / "params.yaml")
    floors = [Floor(class_="Bag", recall=0.5), Floor(class_="Bagg", recall=0.5), Floor(set="hard", accuracy=0.5)]
    costs = params.calibrate.model_copy(update={"cost_false_negative": {"Bag": 2.0, "Shrt": 3.0}})
    gate = params.gate.model_copy(update={"floors": floors})
    asked = params.model_copy(update={"gate": gate, "calibrate": costs})
    monkeypatch.setattr(retrain, "_timed", lambda *_: "unchanged")  # the stage itself is tested elsewhere
    run = SimpleNamespace(root=root, params=asked)
    if stage != "validate":
        retrain._bring_up_to_date(run, stage)
        return
    with pytest.raises(ParamsError) as error:
        retrain._bring_up_to_date(run, stage)
    assert "so nothing was trained" in str(error.value)
    assert "gate.floors.1: there is no class 'Bagg': is 'Bag' meant?" in str(error.value)
    assert "gate.floors.2: there is no hard set" in str(error.value)
    assert "gate.floors.0" not in str(error.value)
    assert "calibrate.cost_false_negative: there is no class 'Shrt'" in str(error.value)
    assert "'Bag': " not in str(error.value)
    known = params.model_copy(update={"gate": params.gate.model_copy(update={"floors": floors[:1]})})
    retrain._bring_up_to_date(SimpleNamespace(root=root, params=known), stage)
