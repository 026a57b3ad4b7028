"""A params.yaml that is not YAML: the error names the line and the problem in plain words."""

import pytest

from tasks.common.errors import ParamsError
from tasks.common.params import parse_text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n b: 2\n", "line 2, `b: 2`: `: ` comes where no key can be: indent this line like"),
        ("a: b: c\n", "line 1, `a: b: c`: `: ` comes where"),
        ("a:\n\t- 1\n", "line 2, `- 1`: a value cannot begin like this: indent with spaces, not tabs"),
        ("a: 1\nb: @x\n", "line 2, `b: @x`: a value cannot begin like this"),
        ("a: 1\nb: 'x\nc: 2\n", "line 2, `b: 'x`: the quote that opens here is never closed"),
        ("a: 1\nb: 2\na: 3\n", "line 3, `a: 3`: this key is there twice"),
        ("a: {b: 1\nc: 2\n", "line 2, `c: 2`: the brace { that opens before is not closed"),
        ("a: [1, 2\nb: 3\n", "line 2, `b: 3`: the bracket [ that opens before is not closed"),
        ("data: [\n", "line 1, `data: [`: a value or a closing bracket is missing"),
        ("- 1\nb: 2\n", "line 2, `b: 2`: this line does not go on as the lines before it"),
        ("a: *q\n", "line 1, `a: *q`: a value that begins with * refers to an anchor"),
        ("a: !x 1\n", "line 1, `a: !x 1`: a value that begins with ! names a type"),
        ('a: "C:\\q"\n', 'line 1, `a: "C:\\q"`: \\ is special between double quotes'),
        ("a: 1\n---\nb: 2\n", "line 2, `---`: `---` begins a second document"),
        ("a: 2024-13-45\n", "month must be in 1..12"),
        ("a: x\x07\n", "control characters are not allowed"),
    ],
)
def test_the_line_and_the_problem_are_said_in_plain_words(text, said):
    with pytest.raises(ParamsError) as error:
        parse_text(text)
    assert str(error.value).startswith("params.yaml is not valid YAML: ")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "ruamel" not in str(error.value)
