"""By which address and interface this machine is seen from where the machines meet."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from typing import Any

import psutil

from hfx.errors import ConfigError

LOOPBACK = "127.0.0.1"
_ELSEWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): the way there is the way out."""


@dataclass(frozen=True)
class Address:
    """This machine as the others see it."""

    address: str
    interface: str | None
    """None: it is not known, and the libraries choose."""
    is_meeting: bool
    """Whether the machines meet here."""


def own_address(host: str) -> Address:
    """Return this machine's address on the way to a host.

    Raises:
        ConfigError: the host's name is not known here.
    """
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise ConfigError(
            f"'rdzv' names '{host}', which this machine does not know ({error}); give its address"
        ) from error
    own = _seen_from(family, place)
    if own is None:
        raise ConfigError(f"this machine has no way to '{host}' of 'rdzv'; look at its network")
    called = _is_loopback(own) and not _is_loopback(host) and host != "localhost"
    if called:  # many systems have their own name at 127.0.1.1, where nobody else finds them
        own = _seen_from(socket.AF_INET, (_ELSEWHERE, 9)) or own
    of = {address.address: name for name, found in psutil.net_if_addrs().items() for address in found}
    return Address(own, of.get(own), called or str(place[0]) in of)


def _seen_from(family: int, place: Any) -> str | None:
    """Return this machine's address on the way to a place; None where there is no way."""
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(place)  # sends nothing: it only asks for the way
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
