"""Run a command in a network namespace that has nothing but loopback: `python tests/offline.py COMMAND ...`.

Linux only, and only where such a namespace may be made; elsewhere the command is not run. `HFX_TESTS_OFFLINE=no` in the
environment runs it with the network there is, and says so.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
import sys

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000  # CLONE_NEWUSER and CLONE_NEWNET of sched.h
_SET_FLAGS, _UP = 0x8914, 0x1  # SIOCSIFFLAGS of sockios.h, IFF_UP of if.h


def leave_the_network() -> None:
    """Move this process into a network namespace of its own.

    Raises:
        OSError: the system does not allow it.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "unshare"):
        raise OSError("this system is no Linux")
    if libc.unshare(_NEW_USER | _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for name, line in {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as loopback:
        fcntl.ioctl(loopback, _SET_FLAGS, struct.pack("16sh14x", b"lo", _UP))


def main() -> None:
    """Leave the network, then become the command."""
    if os.environ.get("HFX_TESTS_OFFLINE") == "no":
        print("offline: HFX_TESTS_OFFLINE=no, so the network is not blocked", file=sys.stderr)
    else:
        try:
            leave_the_network()
        except OSError as error:
            sys.exit(f"offline: no network namespace can be made here ({error}); HFX_TESTS_OFFLINE=no goes without")
        os.environ["HFX_TESTS_OFFLINE"] = "yes"
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
