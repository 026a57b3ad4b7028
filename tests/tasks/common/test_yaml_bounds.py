"""YAML that would crash, hang or fill memory is refused before it is parsed."""

import time

import pytest
import yaml

from tasks.common.errors import ParamsError
from tasks.common.files import parse_yaml, read_json
from tasks.common.params import load_params
from tasks.common.yaml_bounds import bound_passed
from tests.support.checkout import ROOT

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
BOUNDED = {
    "brackets": ("gate: " + "[" * 100_000 + "]" * 100_000, "more than 50 levels"),
    "braces": ("gate: " + "{" * 100_000, "more than 50 levels"),
    "indents": ("\n".join(" " * n + "a:" for n in range(1_000)), "more than 50 levels"),
    "aliases": (BOMB, "more than 100000 values"),
    "length": ("# long\n" * 200_000, "characters"),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_a_bomb_is_refused_within_a_second_with_the_line(tmp_path, name):
    text, problem = BOUNDED[name]
    file = tmp_path / "params.yaml"
    file.write_text(text)
    started = time.process_time()
    with pytest.raises(ParamsError, match=problem):
        load_params(file)
    with pytest.raises(yaml.YAMLError, match=problem):
        parse_yaml(text)
    assert time.process_time() - started < 1


def test_what_people_write_is_within_the_bounds():
    for name in ("params.yaml", "dvc.yaml"):
        assert bound_passed((ROOT / name).read_text()) is None
    assert bound_passed("a: &x [1, 2]\nb: *x\nc: *x\n") is None
    assert bound_passed("a: [1") is None  # the parser says what is wrong


def test_deep_json_is_a_value_error(tmp_path):
    file = tmp_path / "state.json"
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"state\.json is nested too deeply"):
        read_json(file)
