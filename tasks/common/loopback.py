"""Requests to this machine, which never go through a proxy from the environment.

A proxy would resolve 127.0.0.1 as itself: behind a company's proxy nothing of a project's own servers would answer.
"""

import ipaddress
import os
import urllib.request
from collections.abc import Mapping
from http.client import HTTPResponse
from urllib.parse import urlsplit

NAMES = ("127.0.0.1", "localhost", "::1")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`, an address or a name, with or without brackets."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def open_url(request: urllib.request.Request | str, seconds: float) -> HTTPResponse:
    """`urllib.request.urlopen`, around any proxy if the address is on this machine."""
    url = request if isinstance(request, str) else request.full_url
    if is_loopback(urlsplit(url).hostname or ""):
        return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=seconds)
    return urllib.request.urlopen(request, timeout=seconds)


def no_proxy(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables by which libraries leave out the proxy on this machine, added to what `environment` excludes."""
    given = environment.get("no_proxy") or environment.get("NO_PROXY") or ""
    listed = [name.strip() for name in given.split(",") if name.strip()]
    value = given if "*" in listed else ",".join([*listed, *(name for name in NAMES if name not in listed)])
    return {"NO_PROXY": value, "no_proxy": value}
