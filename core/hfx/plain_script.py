"""What a run is in plain code: what `hfx eject` asks the plugins of a run for, in `hfx_eject`."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfx.protocols import Values


@dataclass
class PlainScript:
    """The parts of a script that only a plugin knows; the rest is read off the run itself.

    What is data (rows, cleaning, tokenizer, sampler, batcher) a plugin need not say: the script has its samples in a
    file. What shapes the model, the loss, the precision or the optimizer, it has to: a run with a plugin that wraps one
    of these and says nothing is refused.
    """

    folder: Path
    """Where the script will lie: for files that it reads."""
    imports: set[str] = field(default_factory=set)
    """Lines of imports beyond those of torch and transformers."""
    model: list[str] = field(default_factory=list)
    """Lines behind the loading of `model`."""
    notes: list[str] = field(default_factory=list)
    """What the script leaves out, and why it can: a sentence each."""
    loss: str = ""
    """The source of the function of the loss."""
    loss_name: str = ""
    constants: dict[str, Any] = field(default_factory=dict)
    """Its arguments beyond model and batch."""
    columns: list[Callable[[Values], Values]] = field(default_factory=list)
    """What a sample has beyond what the task drew: functions of that."""

    def say(self, note: str) -> None:
        """Say what the script leaves out, and why it can."""
        self.notes.append(note)

    def after_loading(self, *lines: str, imports: str | None = None) -> None:
        """Add lines that change `model`, which has its first weights, and the import that they need.

        Plugins are asked in the reverse of the order in which they wrapped it, so the lines stand before earlier ones.
        """
        self.model[:0] = lines
        if imports:
            self.imports.add(imports)

    def take_loss(self, function: Callable[..., Any], **constants: Any) -> None:
        """Take the source of a function for the loss: `function(model, batch, **constants)`, the sum over the batch.

        It may use `torch`, `functional` (torch's), `Any` and what it has inside, and nothing else of its module.
        """
        self.loss = textwrap.dedent(inspect.getsource(function))
        self.loss_name = function.__name__
        self.constants = constants
