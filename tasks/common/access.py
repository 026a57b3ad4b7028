"""Who may talk to a server that a project starts: which names it has, and which sign-ins open it.

Our servers check every request themselves. A page of another origin can send requests to any port of this machine, with
credentials that the browser has cached, and under a name of its own by DNS rebinding. Other users of the machine can do
the same without a browser.
"""

import base64
import binascii
import hmac
import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from tasks.common.checkout import checkout
from tasks.common.loopback import is_loopback
from tasks.common.params import ServeParams


@dataclass(frozen=True)
class Access:
    """What one server lets in."""

    auth: str = field(repr=False)  # "user:password" of the checkout
    host: str = "127.0.0.1"  # that the server listens on
    names: tuple[str, ...] = ()  # further names of this server
    password: str | None = field(default=None, repr=False)  # that people may use instead
    public_url: str | None = None  # at which people reach this server, through a proxy

    def knows(self, host: str) -> bool:
        """Whether a Host header names this server. A network address cannot be rebound, a name can."""
        name = (split(f"//{host}").hostname or "").rstrip(".")
        if name and self.public_url and name == split(self.public_url).hostname:
            return True
        if is_loopback(self.host) or not name:
            return is_loopback(name)
        try:
            return bool(ipaddress.ip_address(name))
        except ValueError:
            own = {"localhost", self.host, socket.gethostname(), socket.getfqdn(), *self.names}
            return name in {one.lower() for one in own}

    def own_origin(self, host: str, origin: str | None, fetch_site: str | None) -> bool:
        """Whether a page of this server sent a request, by its headers. A proxy may have changed the Host header."""
        if self.public_url and origin == self.public_url and (fetch_site or "same-origin") == "same-origin":
            return True
        return not is_foreign(host, origin, fetch_site)

    def is_secret(self, given: str) -> bool:
        """Whether the password of "user:password" is the checkout's secret; compared in constant time."""
        return hmac.compare_digest(_bytes(given.partition(":")[2]), _bytes(self.auth.partition(":")[2]))

    def opens(self, given: str) -> bool:
        """Whether "user:password" signs in, with any user name; compared in constant time."""
        password = _bytes(given.partition(":")[2])
        right = [self.auth.partition(":")[2], *([self.password] if self.password else [])]
        return any([hmac.compare_digest(password, _bytes(one)) for one in right])


def access_of(root: Path, serve: ServeParams) -> Access:
    """Access to the servers of the checkout at `root`, from its secret, params.yaml and the environment."""
    password = os.environ.get(serve.password_env) or None
    return Access(checkout(root).auth, serve.host, tuple(serve.hosts), password, serve.public_url)


def sign_in_of(header: str) -> str:
    """ "user:password" of a basic authorization header; "" if it holds none."""
    kind, _, encoded = header.partition(" ")
    try:
        return base64.b64decode(encoded, validate=True).decode() if kind.lower() == "basic" else ""
    except (binascii.Error, UnicodeDecodeError):
        return ""


def basic(auth: str) -> str:
    """The basic authorization header of "user:password"."""
    return f"Basic {base64.b64encode(auth.encode()).decode()}"


def is_foreign(host: str, origin: str | None, fetch_site: str | None) -> bool:
    """Whether a browser sent a request from a page of another server, by its headers; programs send neither."""
    if origin is not None and split(origin).netloc != host:
        return True
    return (fetch_site or "same-origin") not in ("same-origin", "none")


def split(url: str) -> SplitResult:
    """The parts of an address; none if it cannot be parsed."""
    try:
        return urlsplit(url)
    except ValueError:  # an unclosed bracket
        return urlsplit("")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
