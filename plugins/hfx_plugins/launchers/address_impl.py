"""By which address and interface this machine is seen from where the machines meet."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import psutil

from hfx.errors import ConfigError

LOOPBACK = "127.0.0.1"


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
        family, kind, _, _, place = socket.getaddrinfo(host, 9, type=socket.SOCK_DGRAM)[0]
    except OSError as error:
        raise ConfigError(
            f"'rdzv' names '{host}', which this machine does not know ({error}); give its address"
        ) from error
    with socket.socket(family, kind) as probe:
        try:
            probe.connect(place)  # sends nothing: it only asks for the way
        except OSError as error:
            raise ConfigError(
                f"this machine has no way to '{host}' of 'rdzv' ({error}); look at its network"
            ) from error
        own = str(probe.getsockname()[0])
    of = {address.address: name for name, found in psutil.net_if_addrs().items() for address in found}
    return Address(own, of.get(own), str(place[0]) in of)
