"""What people call an image: id, start of an id, key, path; and what names several or none."""

import pyarrow as pa
import pytest

from tasks.labels.names import candidates, name_images

A, B, C = "a" * 64, "ab" * 32, "abababab" + "c" * 56
ROWS = pa.table(
    {
        "id": [A, B, C, A],
        "key": ["order 1", "order 2", "order 2", "order 1"],
        "path": ["cat/1.png", "dog/1.png", None, "again/cat/1.png"],
    },
    schema=pa.schema([("id", pa.string()), ("key", pa.string()), ("path", pa.string())]),
)


@pytest.mark.parametrize(
    ("text", "image"),
    [
        *[(A, A), ("a" * 8, A), ("abababab" + "c", C), ("order 1", A)],
        *[("cat/1.png", A), ("/home/me/dog/1.png", B), ("again/cat/1.png", A)],
    ],
)
def test_a_text_names_one_image(text, image):
    rows = ROWS.filter(pa.array(candidates(ROWS, [text])))
    assert name_images(rows, [text]).found == {text: image}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("order 2", "names several images (abababababab, ababababcccc): give the id of one"),
        ("abababab", "names several images"),
        ("1.png", "names several images"),
        ("order 3", "is not known as an id, the start of one (at least 8 characters), a key or a path"),
        ("aaaaaaa", "is not known"),
        ("f" * 64, "is not known"),
        ("t/1.png", "is not known"),
    ],
)
def test_a_text_that_names_several_or_none_says_so(text, why):
    rows = ROWS.filter(pa.array(candidates(ROWS, [text])))
    named = name_images(rows, [text, "order 1"] if len(rows) else [text])
    assert why in named.refused[text]


def test_a_key_wins_over_the_start_of_an_id():
    rows = pa.table({"id": [A, B], "key": [None, "aaaaaaaa"], "path": [None, None]}, schema=ROWS.schema)
    assert name_images(rows, ["aaaaaaaa"]).found == {"aaaaaaaa": B}
