"""Texts from elsewhere in the terminal."""

from flows.cli.text import SENTENCES, for_terminal


def test_a_long_name_loses_its_middle_but_a_note_keeps_its_sentences():
    name, note = "x" * 300, f"note: {'names, ' * 60}are not read. Use --layout"
    assert len(for_terminal(name)) < 240
    assert for_terminal(note, SENTENCES) == note


def test_control_and_direction_characters_are_escaped():
    assert for_terminal("a\x1b[31mb\u202ec") == "a\\x1b[31mb\\u202ec"
