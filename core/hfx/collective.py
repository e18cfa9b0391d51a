"""What torch says when ranks lose each other, in words a user can act on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import psutil

from hfx.errors import CollectiveError, HfxError

_KINDS = {"DistBackendError", "DistNetworkError", "DistStoreError"}
_LATE = ("timed out", "timeout", "wait timeout")
_LOST = ("connection closed", "connection reset", "broken pipe", "remote process", "connection refused", "recv, closed")


def first_line(error: BaseException) -> str:
    """Return the first line of what an exception says, without the stack that torch puts behind it."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def of_ranks(error: BaseException) -> bool:
    """Say whether an exception is of torch's communication between ranks."""
    if isinstance(error, HfxError) or not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return bool(_KINDS & {kind.__name__ for kind in type(error).__mro__}) or "gloo" in text or "nccl" in text


def explained(error: BaseException, rank: int, hanging: Callable[[], str | None] = lambda: None) -> CollectiveError:
    """Return what an exception of torch's communication means.

    Args:
        error: The exception.
        rank: The rank that raised it.
        hanging: Returns who it waited for; called where it waited in vain.
    """
    text, said = str(error).lower(), first_line(error)
    if any(phrase in text for phrase in _LATE):
        who = hanging() or "it hangs, or is much slower"
        return CollectiveError(
            f"rank {rank} waited for another one in vain: {who}; "
            f"a greater 'timeout_minutes' of the backend waits longer ({said})"
        )
    if any(phrase in text for phrase in _LOST):
        return CollectiveError(
            f"rank {rank} lost the connection to another one, which ended or is out of reach; look at what that one "
            f"says, then resume ({said})"
        )
    return CollectiveError(f"ranks cannot talk to each other; 'hfx doctor' tries the way between them ({said})")


def expire(port: int, seconds: int) -> None:
    """Let this process's connections to a port fail once nobody has answered for so long.

    Torch's store waits for an answer without end, and a link that is cut says nothing.
    """
    after = {"TCP_KEEPIDLE": seconds // 2, "TCP_KEEPINTVL": max(1, seconds // 10), "TCP_KEEPCNT": 5}
    for connection in psutil.Process().net_connections(kind="tcp"):
        if not connection.raddr or connection.raddr.port != port:
            continue
        # A copy of the descriptor: options are of the connection, and closing the copy leaves it open.
        with socket.socket(fileno=os.dup(connection.fd)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (after | {"TCP_USER_TIMEOUT": seconds * 1000}).items():
                if hasattr(socket, name):
                    same.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
