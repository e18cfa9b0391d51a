"""Opening a database through its module, and telling what it says apart: refused, or only not now."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfx import reveal
from hfx.errors import ConfigError, DataError, RemoteError, nearest
from hfx_plugins.sources.retry_impl import Trouble

_NAMED_CURSORS = ("psycopg", "psycopg2")
"""Modules that fetch everything at once, unless the cursor has a name."""
_SQLITE = (5, 6, 15)
"""SQLITE_BUSY, SQLITE_LOCKED, SQLITE_PROTOCOL."""
_STATES = re.compile(r"08...|40...|53...|55P03|57P0[1-35]|HYT0\d")
"""SQLSTATE of lost connections, transactions that lost a race, a server that is full, locks, shutdowns, timeouts."""
_NUMBERS = (1040, 1053, 1158, 1159, 1160, 1161, 1205, 1213, 2002, 2003, 2006, 2013, 2055, 4031)
"""The same, as MySQL and MariaDB number it."""
_LASTING = re.compile(
    r"authenticat|password|denied|permission|not permitted|does not exist|no such|unknown|unable to open|syntax",
    re.IGNORECASE,
)
"""Words of those that give no code and will not answer otherwise in a while."""


@dataclass(frozen=True)
class Database:
    """How to reach a database: a module, what its `connect` takes, and which of that is a secret."""

    module: str
    address: str | None
    arguments: tuple[tuple[str, Any], ...]

    @property
    def label(self) -> str:
        """Its name in messages and places; a secret stays `env:NAME`."""
        return self.address or self.module

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """Open the database, and yield a cursor that leaves the rows with the server where it can.

        Raises:
            Trouble: it may work later.
            DataError, RemoteError: it will not.
        """
        module = self.imported()
        with self.failing(f"cannot open the database '{self.label}'"):
            connection = self._connected(module)
        with _closing(connection, module):
            named = module.__name__.partition(".")[0] in _NAMED_CURSORS
            with self.failing(f"cannot open the database '{self.label}'"):
                cursor = connection.cursor("hfx_rows") if named else connection.cursor()
            with _closing(cursor, module):
                yield cursor

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        """Turn what the database refuses into one line that holds no secret, and what may pass into `Trouble`."""
        module = self.imported()
        try:
            yield
        except (ConnectionError, TimeoutError) as error:
            raise Trouble(self._line(error)) from None
        except module.Error as error:
            if _passes(module, error):
                raise Trouble(self._line(error)) from None
            local = self.module == "sqlite3"
            raise (DataError if local else RemoteError)(
                f"{what}: {self._line(error)}; look at the options of 'sql'"
            ) from None

    def imported(self) -> Any:
        """Return the module.

        Raises:
            ConfigError: it is not installed, or is none of a database.
        """
        try:
            module = importlib.import_module(self.module)
        except ImportError:
            raise ConfigError(
                f"the module '{self.module}' (sql.module) is not installed; install the database's Python package"
            ) from None
        if not (hasattr(module, "connect") and hasattr(module, "Error")):
            raise ConfigError(f"the module '{self.module}' (sql.module) is none of a database: it has no `connect`")
        return module

    def _secrets(self) -> dict[str, str]:
        given = [self.address, *(value for _, value in self.arguments)]
        return {value: reveal(value) for value in given if isinstance(value, str) and value.startswith("env:")}

    def _line(self, error: BaseException) -> str:
        line = " ".join(str(error).split()) or type(error).__name__
        for name, value in self._secrets().items():
            line = line.replace(value, name) if value else line
        return line

    def _connected(self, module: Any) -> Any:
        secrets = self._secrets()
        arguments = {name: secrets.get(str(value), value) for name, value in self.arguments}
        address = secrets.get(self.address, self.address) if self.address else None
        if self.module == "sqlite3":
            return _sqlite(module, address or "", arguments)
        return module.connect(*([address] if address else []), **arguments)


@contextmanager
def _closing(opened: Any, module: Any) -> Iterator[None]:
    """Close in the end; a connection that is lost may refuse even that."""
    try:
        yield
    finally:
        with suppress(module.Error, OSError):
            opened.close()


def _passes(module: Any, error: Exception) -> bool:
    """Tell whether an error is a lost connection, a lock or a server that is busy, and no refusal."""
    kinds = tuple(getattr(module, name) for name in ("OperationalError", "InterfaceError") if hasattr(module, name))
    if not isinstance(error, kinds):
        return False
    if (code := getattr(error, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _SQLITE
    state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    first = error.args[0] if error.args else None
    number = first if isinstance(first, int) else getattr(error, "errno", None)
    if isinstance(first, str) and re.fullmatch(r"[0-9A-Z]{5}", first):
        state = first
    if isinstance(state, str):
        return _STATES.fullmatch(state) is not None
    if isinstance(number, int) and number > 0:
        return number in _NUMBERS
    return not _LASTING.search(str(error))


def _sqlite(module: Any, address: str, arguments: dict[str, Any]) -> Any:
    """Open a file that has to be there, for reading; text that is no UTF-8 spoils its row and not the query."""
    path = Path(address.removeprefix("sqlite:///")).expanduser()
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else ""
        raise DataError(f"the database '{address}' does not exist;{near or ' name a file of SQLite'}")
    connection = module.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, **arguments)
    connection.text_factory = _text
    return connection


def _text(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data
