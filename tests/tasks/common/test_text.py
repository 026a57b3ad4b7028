"""User-given text in sentences, Markdown and storage; nested mappings by path."""

import pytest

from tasks.common.cells import optional_text, without_surrogates
from tasks.common.nested import flatten
from tasks.common.text import escape_markdown, join_names, one_line, single_spaced


def test_one_line_replaces_control_and_direction_characters_and_is_bounded():
    assert one_line("a\nb\x1b[0m\u202ec") == "a b [0m c"
    assert one_line("x" * 100, 10) == "x" * 9 + "…"


def test_single_spaced_text_is_one_line_and_never_cut():
    assert single_spaced(" a\n\n b\x00c ") == "a b c"
    assert single_spaced("x" * 1000) == "x" * 1000


def test_join_names_says_how_many_more_there_are():
    assert join_names("abcdefg", most=2) == "a, b and 5 more"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('it\'s "new"', 'it\'s "new"'),
        ("a|b", r"a\|b"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("# [x](http://y)\n- z", r"\# \[x\]\(http\://y\) \- z"),
        (0.5, r"0\.5"),
    ],
)
def test_escaped_markdown_shows_exactly_the_text(text, shown):
    assert escape_markdown(text) == shown


def test_stored_text_has_no_surrogates_and_an_empty_cell_is_absent():
    assert without_surrogates("a\udcff") == "a?"
    assert optional_text("  x\udcff ") == "x?"
    assert optional_text(float("nan")) is optional_text("  ") is optional_text(None) is None


def test_flatten_keeps_lists_and_empty_mappings():
    assert flatten({"a": {"b": [1, 2], "c": {}}, "d": None}) == {"a.b": [1, 2], "a.c": {}, "d": None}
    assert flatten({"a": {"b": 1}}, " / ") == {"a / b": 1}
    assert flatten(None) == flatten({}) == {}
