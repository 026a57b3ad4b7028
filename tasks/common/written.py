"""Text as people type and paste it: blanks, accents and invisible characters that say nothing.

Also names Git LFS pointers: small text files that stand where the real file was not fetched.
"""

import re
import unicodedata

LFS = b"version https://git-lfs.github.com/spec/"
LFS_ADVICE = (
    "this is a Git LFS pointer, not the file: run `git lfs pull` in its repository, then the same command again"
)
EDGES = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u00ad"  # invisible; some have a meaning inside a word
BLANKS = re.compile(r"[^\S\n\r\t]")  # no-break spaces and others that look like a space


def tidy(text: str) -> str:
    """`text` in normal form NFC, without blanks and invisible characters at its ends; other blanks are plain ones."""
    plain = BLANKS.sub(" ", unicodedata.normalize("NFC", text)).replace("\ufeff", "").replace("\u200b", "")
    while plain != (shorter := plain.strip().strip(EDGES)):
        plain = shorter
    return plain


def look(text: str) -> str:
    """What people see of `text`: names with the same look are taken for each other."""
    text = re.sub(r"^(-?\d+)\.0+$", r"\1", tidy(text))
    letters = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in letters if c.isprintable() and not unicodedata.combining(c) and c not in " -_'\"`")


def is_lfs_pointer(data: bytes) -> bool:
    """Whether `data` begins like a Git LFS pointer."""
    return data.startswith(LFS)
