"""Rows of a data set of the Hugging Face hub, at one commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from hfx import Plugin, Problem, Rows, Secret, hookimpl
from hfx.errors import ConfigError

if TYPE_CHECKING:
    from hfx import Run


class Hub(Plugin):
    """Rows of a data set of the Hugging Face hub, loaded with `datasets` and kept in its cache.

    `dataset`, or `data`, names it (`stanfordnlp/imdb`; `data` may map names to several); `eval_data` is the name of
    another split of it. Labels that the data set has names for come as those names.
    """

    dataset: str | None = None
    """The data set's name on the hub, or a folder laid out like one."""
    config: str | None = None
    """Which of its configurations (subsets); none: the only one, or its default."""
    split: str = "train"
    """The split to train on, or a part of it: `train[:10%]`."""
    revision: str | None = None
    """A branch, a tag, or the hash of a commit, which is the same for ever; none: the newest commit."""
    columns: list[str] | None = None
    """The columns to read; none: all of them."""
    token: Secret | None = None
    """Opens private and gated data sets, as `env:NAME`; none: what `hf auth login` left on this machine."""
    retry_minutes: float = Field(default=10.0, ge=0)
    """Minutes for which what fails (timeouts, cut connections, 429, 5xx) is tried again before the run gives up."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report that nothing, or two things, say what to read."""
        if self.dataset and run.config.data:
            yield Problem("'data' and 'hub.dataset' both name the data set; leave one of them out")
        if not self.dataset and not run.config.data:
            yield Problem("'hub' is given no data set; name one with '--data OWNER/NAME' or '--hub.dataset OWNER/NAME'")
        if isinstance(run.config.eval_data, dict):
            yield Problem("'eval_data' names a split of the data set for 'hub', such as 'test'; give one name")

    @hookimpl
    def hfx_source(self, split: str, run: Run) -> Rows:
        from hfx_plugins.sources.hub_impl import Asked, HubSource

        data = self.dataset or run.config.data
        if not data or (split == "eval" and not isinstance(run.config.eval_data, str)):
            raise ConfigError("'hub' is not told which data set and which split to read; give --data and --eval-data")
        named = data if isinstance(data, dict) else {"data" if split == "train" else "eval_data": data}
        part = str(run.config.eval_data) if split == "eval" else self.split
        columns = tuple(self.columns) if self.columns else None
        how = (self.config, part, self.revision, columns, self.token, self.retry_minutes * 60)
        asked = tuple(Asked(name, named[name], *how) for name in sorted(named))
        return Rows(HubSource(asked, run.cache / "hub"))
