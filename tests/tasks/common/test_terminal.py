"""Control characters of strangers are shown; our colours and progress lines go through."""

import os

import pytest

from tasks.common.terminal import shown
from tests.support.checkout import ROOT
from tests.support.children import command

HOSTILE = [
    "\x1b]0;title\x07",
    "\x1b[2J",
    "\x1b[6n",
    "\x9b2J",
    "\x1b]52;c;aGk=\x07",
    "a\x08b",
    "a\rb",
    "\u202egnp",
    "\x7f",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_moves_sets_or_asks_is_shown(text):
    assert shown(f"bag {text}").isprintable()
    assert "\\" in shown(text)


def test_plain_text_colours_and_progress_stay():
    for text in ("Größe 3\tcm\n", "\x1b[31merror\x1b[0m", "\r\x1b[2K\x1b[?25l", "日本 – é"):
        assert shown(text) == text


def test_the_command_shows_an_escape_sequence_that_it_was_given(tmp_path):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = command(("tombstone", "b\x1b]0;owned\x07", "--why", "x"), tmp_path, env)
    assert done.returncode == 1
    assert "b\\x1b]0;owned\\x07" in done.stderr
    assert "\x1b" not in done.stderr
