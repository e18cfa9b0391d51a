"""hfx: a training framework over the Hugging Face stack in which every decision is a plugin.

The public names load when they are first used, so `import hfx` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfx.api import load_config as load_config
    from hfx.api import plugins as plugins
    from hfx.api import train as train
    from hfx.backend import TorchBackend as TorchBackend
    from hfx.config import RunConfig as RunConfig
    from hfx.distributed import DistributedBackend as DistributedBackend
    from hfx.errors import ConfigError as ConfigError
    from hfx.errors import DataError as DataError
    from hfx.errors import HfxError as HfxError
    from hfx.errors import ModelError as ModelError
    from hfx.errors import RemoteError as RemoteError
    from hfx.errors import nearest as nearest
    from hfx.order import permute as permute
    from hfx.params import ParamGroups as ParamGroups
    from hfx.plain_script import PlainScript as PlainScript
    from hfx.plugin import Column as Column
    from hfx.plugin import Plugin as Plugin
    from hfx.plugin import Secret as Secret
    from hfx.plugin import hookimpl as hookimpl
    from hfx.plugin import reveal as reveal
    from hfx.protocols import Backend as Backend
    from hfx.protocols import BadRow as BadRow
    from hfx.protocols import Batcher as Batcher
    from hfx.protocols import ColumnType as ColumnType
    from hfx.protocols import Drop as Drop
    from hfx.protocols import Drops as Drops
    from hfx.protocols import Example as Example
    from hfx.protocols import Executor as Executor
    from hfx.protocols import Metrics as Metrics
    from hfx.protocols import Place as Place
    from hfx.protocols import Precision as Precision
    from hfx.protocols import Problem as Problem
    from hfx.protocols import Row as Row
    from hfx.protocols import Rows as Rows
    from hfx.protocols import RunResult as RunResult
    from hfx.protocols import Sampler as Sampler
    from hfx.protocols import Shares as Shares
    from hfx.protocols import SketchedStep as SketchedStep
    from hfx.protocols import Source as Source
    from hfx.protocols import Step as Step
    from hfx.protocols import StepResult as StepResult
    from hfx.protocols import Stretch as Stretch
    from hfx.protocols import Table as Table
    from hfx.protocols import TableStep as TableStep
    from hfx.protocols import Task as Task
    from hfx.protocols import World as World
    from hfx.redact import redacted as redacted
    from hfx.remote_code import RemoteCode as RemoteCode
    from hfx.remote_code import safetensors_only as safetensors_only
    from hfx.run import Run as Run
    from hfx.token_loss import causal_loss as causal_loss
    from hfx.token_loss import masked_loss as masked_loss
    from hfx.token_loss import next_token_logps as next_token_logps

_HOMES = {
    "train": "api", "load_config": "api", "plugins": "api",
    "Plugin": "plugin", "hookimpl": "plugin", "Column": "plugin", "Secret": "plugin", "reveal": "plugin",
    "Run": "run", "RunConfig": "config", "ParamGroups": "params",
    "PlainScript": "plain_script", "TorchBackend": "backend", "permute": "order",
    "causal_loss": "token_loss", "masked_loss": "token_loss",
    "next_token_logps": "token_loss", "DistributedBackend": "distributed", "redacted": "redact",
    "RemoteCode": "remote_code", "safetensors_only": "remote_code",
}  # fmt: skip
_HOMES |= dict.fromkeys(
    ["BadRow", "Backend", "Batcher", "ColumnType", "Drop", "Drops", "Example", "Executor", "Metrics", "Place",
     "Precision", "Problem", "Row", "Rows", "RunResult", "Sampler", "Shares", "SketchedStep", "Source", "Step",
     "StepResult", "Stretch", "Table", "TableStep", "Task", "World"],
    "protocols",
)  # fmt: skip
_HOMES |= dict.fromkeys(["ConfigError", "DataError", "HfxError", "ModelError", "RemoteError", "nearest"], "errors")
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hfx' has no attribute '{name}'")
    return getattr(import_module(f"hfx.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
