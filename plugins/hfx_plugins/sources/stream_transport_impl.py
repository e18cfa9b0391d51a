"""Bytes of a file from any offset on: http(s) by ranges, everything else through fsspec.

Http does not go through fsspec: its files hide whether a server honoured a range, the ETag, and Retry-After.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
import urllib.error
import urllib.request
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from hfx import reveal
from hfx.errors import DataError, RemoteError
from hfx_plugins.sources.retry_impl import TEMPORARY, Trouble, retry_after

CHUNK = 1 << 18
_reached: set[str] = set()
"""Hosts that answered before."""


@dataclass(frozen=True)
class Identity:
    """What tells one state of a file from another, and whether it can be read from the middle."""

    size: int | None
    tag: str
    ranges: bool

    def differs(self, other: Identity) -> bool:
        """Say whether the file is another one, as far as both sides say something about it."""
        sizes = self.size is not None and other.size is not None and self.size != other.size
        return sizes or bool(self.tag and other.tag and self.tag != other.tag)


class Body(Protocol):
    """The bytes from an offset on."""

    identity: Identity
    offset: int
    """Of the next byte; 0 although another was asked for, where the server serves no ranges."""

    def read(self) -> bytes:
        """Return what is there, at most `CHUNK`; nothing at the end."""

    def abort(self) -> None:
        """Make a waiting `read` of another thread return."""

    def close(self) -> None:
        """Let go of the connection."""


@dataclass(frozen=True)
class Access:
    """How remote files are reached, and for how long what fails is tried again."""

    timeout: float
    patience: float
    headers: tuple[tuple[str, str], ...] = ()
    storage: tuple[tuple[str, Any], ...] = ()

    def options(self) -> dict[str, Any]:
        """Return the options of fsspec, secrets looked up."""
        return {name: _revealed(value) for name, value in self.storage}

    def open(self, url: str, offset: int = 0, stop: int | None = None) -> Body:
        """Return the bytes from an offset on.

        Raises:
            Trouble: it may work later.
            RemoteError: it will not.
            DataError: there is no such file.
        """
        if url.startswith(("http://", "https://")):
            return _HttpBody(url, offset, stop, self)
        return _FileBody(url, offset, self)

    def identity(self, url: str) -> Identity:
        """Return what there is to know about a file without reading it."""
        body = self.open(url, 0, 1)
        body.close()
        return body.identity


def _revealed(value: Any) -> Any:
    return reveal(value) if isinstance(value, str) and value.startswith("env:") else value


class _HttpBody:
    """One answer of a web server."""

    def __init__(self, url: str, offset: int, stop: int | None, access: Access) -> None:
        last = "" if stop is None else str(stop - 1)
        request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "hfx"})
        request.add_header("Range", f"bytes={offset}-{last}")
        for name, value in access.headers:
            # A redirect to another host must not carry them along.
            request.add_unredirected_header(name, str(_revealed(value)))
        self._response = _answered(request, access.timeout)
        self.identity, self.offset, self._left = _described(self._response, offset)

    def read(self) -> bytes:
        if self._left == 0:
            return b""
        try:
            data: bytes = self._response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise Trouble(_reason(error)) from error
        if not data and self._left:
            raise Trouble("the connection was cut")
        if self._left is not None:
            self._left -= len(data)
        self.offset += len(data)
        return data

    def abort(self) -> None:
        with suppress(OSError, ValueError), socket.socket(fileno=os.dup(self._response.fileno())) as wire:
            wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._response.close()


def _answered(request: urllib.request.Request, timeout: float) -> Any:
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # behind the end, or an empty file
            return error
        error.close()
        raise _refused(request.full_url, error) from error
    except urllib.error.URLError as error:
        cause = error.reason
        unknown = isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME
        # A name that never led anywhere is misspelt; one that did comes back.
        lasting = isinstance(cause, ssl.SSLCertVerificationError) or (unknown and request.host not in _reached)
        if isinstance(cause, OSError) and not lasting:
            raise Trouble(_reason(cause)) from error
        raise RemoteError(f"'{request.full_url}' cannot be reached: {cause}; look at the address") from error
    except (OSError, http.client.HTTPException) as error:
        raise Trouble(_reason(error)) from error
    except ValueError as error:
        raise DataError(f"'{request.full_url}' is no address ({error}); look at 'data'") from error
    _reached.add(request.host)
    return response


def _refused(url: str, error: urllib.error.HTTPError) -> Exception:
    if error.code in TEMPORARY:
        return Trouble(f"{error.code} {error.reason}", retry_after(error.headers.get("Retry-After")))
    if error.code in (404, 410):
        return DataError(f"'{url}' does not exist ({error.code} {error.reason}); look at 'data'")
    if error.code in (401, 403):
        return RemoteError(
            f"'{url}' may not be read ({error.code} {error.reason}); give what it asks for with stream.headers"
        )
    return RemoteError(f"'{url}' is refused ({error.code} {error.reason}); look at the address")


def _described(response: Any, asked: int) -> tuple[Identity, int, int | None]:
    """Return (identity, offset of the first byte, bytes that have to come) of an answer."""
    headers, status = response.headers, response.status
    length = int(headers["Content-Length"]) if (headers.get("Content-Length") or "").isdigit() else None
    total = (headers.get("Content-Range") or "").rpartition("/")[2]
    tag = headers.get("ETag") or headers.get("Last-Modified") or ""
    if status == 416:
        response.close()
        size = int(total) if total.isdigit() else asked
        return Identity(size, tag, True), asked, 0
    if status == 206:
        return Identity(int(total) if total.isdigit() else None, tag, True), asked, length
    return Identity(length, tag, False), 0, length


class _FileBody:
    """An open file of fsspec."""

    def __init__(self, url: str, offset: int, access: Access) -> None:
        self.offset = offset
        try:
            fs, path = filesystem(url, access)
            info = fs.info(path)
            self.identity = Identity(info.get("size"), _tag(info), True)
            self._file = fs.open(path, "rb")
            self._file.seek(offset)
        except failures() as error:
            raise failed(url, error) from error
        self._url = url

    def read(self) -> bytes:
        try:
            data: bytes = self._file.read(CHUNK)
        except failures() as error:
            raise failed(self._url, error) from error
        if not data and self.identity.size is not None and self.offset < self.identity.size:
            raise Trouble("the file ended early")
        self.offset += len(data)
        return data

    def abort(self) -> None:
        """Do nothing: the file system has timeouts of its own."""

    def close(self) -> None:
        self._file.close()


def filesystem(url: str, access: Access) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it."""
    import fsspec

    options = access.options()
    if access.headers and url.startswith(("http://", "https://")):
        # A redirect, to another host perhaps, must not carry them along: it is not followed, and told.
        headers = {name: str(_revealed(value)) for name, value in access.headers}
        client = {"headers": headers, "raise_for_status": _refuse_redirects}
        options |= {"client_kwargs": client, "allow_redirects": False}
    try:
        fs, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        known = "aiohttp" in str(error)
        hint = "pip install 'hfx[stream]'" if known else "install the package of that file system"
        raise DataError(f"'{url}' cannot be opened: {_one_line(error)}; {hint}") from error
    except ValueError as error:
        raise DataError(f"'{url}' cannot be opened: {_one_line(error)}; look at the address") from error
    return fs, str(path)


async def _refuse_redirects(response: Any) -> None:
    if 300 <= response.status < 400:
        from aiohttp import ClientResponseError

        where = response.headers.get("Location", "elsewhere")
        raise ClientResponseError(response.request_info, response.history, status=response.status, message=where)


def _tag(info: dict[str, Any]) -> str:
    names = ("ETag", "etag", "md5Hash", "blob_id", "generation", "version_id", "mtime", "LastModified", "modified")
    return next((f"{name} {info[name]}" for name in names if info.get(name) is not None), "")


def failures() -> tuple[type[BaseException], ...]:
    """Return the exceptions of the libraries behind fsspec, as far as they are imported."""
    named = (("aiohttp", "ClientError"), ("httpx", "HTTPError"), ("httpx2", "HTTPError"),
             ("botocore.exceptions", "BotoCoreError"), ("botocore.exceptions", "ClientError"))  # fmt: skip
    found = [getattr(sys.modules[module], name) for module, name in named if module in sys.modules]
    return (OSError, EOFError, *found)


def failed(url: str, error: BaseException) -> Exception:
    """Return what an exception of a file system means."""
    if isinstance(error, FileNotFoundError | IsADirectoryError):
        return DataError(f"'{url}' does not exist, or is no file; look at 'data'")
    if isinstance(error, PermissionError):
        return RemoteError(f"'{url}' may not be read: {_one_line(error)}; give what it asks for with stream.storage")
    status = getattr(error, "status", None)  # of a web server's answer
    if status in (401, 403):
        return RemoteError(f"'{url}' may not be read ({status}); give what it asks for with stream.headers")
    if isinstance(status, int) and 300 <= status < 400:
        where = getattr(error, "message", "elsewhere")
        return RemoteError(f"'{url}' leads to '{where}', where stream.headers are not sent; give that address")
    if isinstance(status, int) and 400 <= status < 500 and status not in TEMPORARY:
        return RemoteError(f"'{url}' is refused ({status}); look at the address")
    return Trouble(_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (error.strerror if isinstance(error, OSError) else None) or _one_line(error) or type(error).__name__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
