"""The callbacks of a run, and what they keep in its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.trainer_callback import ExportableState

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerState

    from hfx import Run
    from hfx_plugins.loops.callbacks import Callbacks
    from hfx_plugins.loops.callbacks_impl import Teller

_BEST = ("best_metric", "best_global_step", "best_model_checkpoint")


class Held:
    """Callbacks, and by which figure there is a best."""

    def __init__(self, callbacks: list[TrainerCallback], options: Callbacks) -> None:
        self.callbacks = callbacks
        self.best = options.best
        self.greater = options.greater_is_better
        if self.best is not None and self.greater is None:
            self.greater = not self.best.endswith("loss")
        self.teller: Teller | None = None
        """Who tells them; None: the Trainer does."""

    def remember(self, run: Run, state: TrainerState) -> None:
        """Keep in the run's state what callbacks want kept, and the best so far."""
        kept = [[type(c).__name__, c.state()] for c in self.callbacks if isinstance(c, ExportableState)]
        best = {name: getattr(state, name, None) for name in _BEST}
        run.state["callbacks"].update(kept=kept, best={name: _plain(value) for name, value in best.items()})

    def recall(self, run: Run, state: TrainerState) -> None:
        """Give it back to them: the run was resumed, or went back."""
        saved = run.state["callbacks"]
        for name in _BEST:
            setattr(state, name, saved.get("best", {}).get(name))
        kept = list(saved.get("kept", []))
        for callback in self.callbacks:
            if not isinstance(callback, ExportableState):
                continue
            found = next((entry for entry in kept if entry[0] == type(callback).__name__), None)
            if found is not None:
                kept.remove(found)
                # Into the callback itself: others may hold it.
                vars(callback).update(vars(type(callback).from_state(found[1])))


def _plain(value: Any) -> Any:
    """Return numpy's and torch's numbers as Python's."""
    return value.item() if hasattr(value, "item") else value
