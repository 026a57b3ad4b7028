"""Keep a passphrase as what scrypt makes of it, and compare with it.

The parameters lie next to each result, so that they can grow without making older passphrases invalid.
"""

import hashlib
import hmac
import secrets
import unicodedata

from tasks.common.checks import Frozen
from tasks.common.errors import EvergreenError

SHORTEST, LONGEST = 12, 200  # letters of a passphrase
COST, BLOCK, LANES = 2**15, 8, 1  # scrypt's n, r, p: 32 MiB and about 0.1 s
MOST_MEMORY = 256 << 20  # bytes that the parameters of a stored passphrase may ask for


class Derived(Frozen):
    """What scrypt made of a passphrase, and how."""

    n: int
    r: int
    p: int
    salt: str  # hex
    key: str  # hex


NOBODY = Derived(n=COST, r=BLOCK, p=LANES, salt="00" * 16, key="00" * 32)  # no passphrase is known to lead here


def derive(passphrase: str) -> Derived:
    """What to store of `passphrase`."""
    salt = secrets.token_bytes(16)
    key = _scrypt(passphrase, COST, BLOCK, LANES, salt)
    return Derived(n=COST, r=BLOCK, p=LANES, salt=salt.hex(), key=key.hex())


def matches(passphrase: str, known: Derived | None) -> bool:
    """Whether `passphrase` is the known one. Without a known one it takes as long and is False."""
    about = known or NOBODY
    key = _scrypt(passphrase[:LONGEST], about.n, about.r, about.p, bytes.fromhex(about.salt))
    return hmac.compare_digest(key, bytes.fromhex(about.key)) and known is not None


def check_passphrase(passphrase: str, again: str, name: str) -> None:
    """Raise EvergreenError unless `passphrase` is fit to be chosen by the person `name`."""
    if passphrase != again:
        raise EvergreenError("The two passphrases differ: type the same one twice.")
    if not SHORTEST <= len(passphrase) <= LONGEST:
        raise EvergreenError(
            f"The passphrase has {len(passphrase)} letters: it needs {SHORTEST} to {LONGEST}. Four words are good."
        )
    if len(set(passphrase)) < 5 or passphrase.casefold() in (name.casefold() * 12):
        raise EvergreenError("This passphrase is easy to guess: take four words that have nothing to do with you.")


def _scrypt(passphrase: str, n: int, r: int, p: int, salt: bytes) -> bytes:
    text = unicodedata.normalize("NFKC", passphrase).encode("utf-8", "surrogatepass")
    return hashlib.scrypt(text, salt=salt, n=n, r=r, p=p, maxmem=MOST_MEMORY, dklen=32)
