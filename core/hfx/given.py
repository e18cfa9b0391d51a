"""Objects handed to `hfx.train` in place of names: a model, a tokenizer, a data set; each becomes a plugin."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from hfx.errors import ConfigError
from hfx.plugin import Plugin, hookimpl
from hfx.protocols import BadRow, Place, Row, Rows

if TYPE_CHECKING:
    from hfx.run import Run


class _Given(Plugin):
    _object: Any = PrivateAttr()

    def holding(self, value: Any) -> _Given:
        """Return this plugin around an object."""
        self._object = value
        return self


class GivenModel(_Given):
    """The model object handed to `hfx.train`."""

    @hookimpl
    def hfx_model(self, run: Run) -> Any:
        return self._object.to(run.precision.dtype)


class GivenTokenizer(_Given):
    """The tokenizer object handed to `hfx.train`."""

    @hookimpl
    def hfx_tokenizer(self) -> Any:
        return self._object


@dataclass(frozen=True)
class DatasetSource:
    """A `datasets.Dataset` as a source; its fingerprint is the data set's own."""

    rows: Any
    name: str
    indexed: bool = True

    def fingerprint(self) -> str:
        """Return the data set's fingerprint."""
        return f"dataset/{self.rows._fingerprint}"

    def summary(self) -> str:
        """Return one phrase for the summary before step 1."""
        return f"a Dataset of {len(self.rows)} rows"

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield the rows."""
        for number in range(start, len(self.rows)):
            yield Row(dict(self.rows[number]), Place(self.name, self.name, number + 1))


class GivenData(_Given):
    """The data sets handed to `hfx.train`."""

    @hookimpl
    def hfx_source(self, split: str) -> Rows:
        return Rows(DatasetSource(self._object[split], split))


def take_objects(fields: dict[str, Any]) -> tuple[list[Plugin], dict[str, Any]]:
    """Return plugins for the objects among the fields, and the fields that are left."""
    fields = dict(fields)
    found: list[Plugin] = []
    if not isinstance(fields.get("model"), str | None):
        found.append(GivenModel().holding(fields.pop("model")))
        if fields.get("tokenizer") is None:
            raise ConfigError("a model object says nothing of its tokenizer; give it too, as 'tokenizer='")
    if fields.get("tokenizer") is not None:
        found.append(GivenTokenizer().holding(fields.pop("tokenizer")))
    if hasattr(fields.get("data"), "column_names"):
        data = {"train": fields.pop("data")}
        if hasattr(fields.get("eval_data"), "column_names"):
            # The field says that there are rows to evaluate on; the plugin holds them.
            data["eval"], fields["eval_data"] = fields["eval_data"], "a Dataset"
        found.append(GivenData().holding(data))
    return found, fields
