"""`Run`: what a hook may read and a loop needs; its parts are in `parts.py`."""

from __future__ import annotations

import gc
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from hfx.errors import DataError, PluginError
from hfx.launch import STOP_SIGNALS, StoppedWaiting
from hfx.parts import Parts
from hfx.protocols import RunResult
from hfx.record import Record
from hfx.redact import redacted
from hfx.saver import Saver

if TYPE_CHECKING:
    from hfx.checkpoint import Checkpoint
    from hfx.communication import Pace
    from hfx.loop import Step
    from hfx.order import GlobalBatch, Position
    from hfx.protocols import StepResult, World
    from hfx.resolve import Resolved
    from hfx.rollback import Rollback
    from hfx.watch import Watch

T = TypeVar("T")
_SIGNALLED = 1_000_000
"""Outweighs the wishes of any number of ranks when they are added up."""
_REQUEUED = _SIGNALLED * 1_000_000
"""Outweighs other signals, and is told from them: a run that SIGUSR1 ended is to be queued again."""


class Run(Parts):
    """One training run: its config, its place among the ranks, its parts, and how far it is."""

    def __init__(self, resolved: Resolved, output: Path, world: World) -> None:
        super().__init__(resolved, output, world)
        self.step = 0
        self.epoch = 0.0
        self.tokens_total = 0
        self.state: dict[str, dict[str, Any]] = defaultdict(dict)
        """Tensors and JSON values of plugins, by their names: saved and restored."""
        self.micro_batch_size = self.config.micro_batch_size
        """Most sequences that a rank computes at once: what the config says, or less once memory ran out."""
        self.smaller: int | None = None
        """What might have fitted where memory ran out: said by a launcher that began again, or to it."""
        self.judged: dict[str, Any] | None = None
        """What is evaluated instead of trained; see `evaluator.py`."""
        self.built_with: frozenset[str] | None = None
        """The plugins that kept something in `state` as soon as everything was built; None before."""
        self.local: dict[str, Any] = {}
        """What plugins hold open, by their names: never saved."""
        self.last_metrics: dict[str, float] = {}
        self._exit = ExitStack()
        self._stop: str | None = None
        self._wish: str | None = None
        self._stopping = False
        self._evaluated_at = -1
        self._saved_at = -1
        self._saver = Saver(self)
        self._all_saved = False
        self._data_seconds = 0.0
        self._watch: Watch | None = None
        self._pace: Pace | None = None
        self._rollback: Rollback | None = None
        self._moved = False
        self._figures: dict[str, Callable[[dict[str, Any]], float | None]] = {}
        self._asked: set[str] = set()

    def build(self) -> None:
        """Build every part now, so that what is wrong shows before training."""
        super().build()
        if self.built_with is None:
            self.built_with = frozenset(name for name, kept in self.state.items() if kept)

    def batches(self) -> Iterator[GlobalBatch]:
        """Yield the global batches that are left, until the last step or until the ranks agreed to stop.

        A signal while it waits for a stream's block ends the run at the last step, which is saved here.
        """
        batches = self.order.batches(self.position)
        while self.step < self.total_steps and not self._stopping:
            self._saver.boundary(self._all_saved)
            started = time.perf_counter()
            if self.pace:
                self.pace.resume()
            if self._moved:
                batches, self._moved = self.order.batches(self.position), False
            try:
                batch = next(batches, None)
            except StoppedWaiting as told:
                self._stop_here(told.code)
                if self.save_due():
                    self.save()
                return
            if batch is None:
                raise DataError("the data yields no examples to train on; look at what the task drops")
            self._data_seconds = time.perf_counter() - started
            yield batch

    def train_step(self, batch: GlobalBatch) -> dict[str, Any]:
        """Train on one global batch, log it, tell the listeners, and return its figures."""
        from hfx.loop import train_step

        start = self.position
        return self._after_step(batch, start, train_step(self, batch, self._data_seconds))

    def begin_step(self, batch: GlobalBatch) -> Step:
        """Return a step for a loop that computes gradients and makes the update by itself; see `hfx.loop.Step`."""
        from hfx.loop import Step

        return Step(self, batch, self._data_seconds)

    def end_step(self, step: Step, result: StepResult) -> dict[str, Any]:
        """Log a step that such a loop made, tell the listeners, and return its figures."""
        return self._after_step(step.batch, step.start, step.ended(result))

    def _after_step(self, batch: GlobalBatch, start: Position, metrics: dict[str, Any]) -> dict[str, Any]:
        self._asked.clear()
        for name, figure in self._figures.items():
            metrics[name] = figure(metrics)
        if self.world.is_main:
            self._record("ledger").append({"step": self.step, "position": asdict(start), "rows": batch.digest()})
        self.last_metrics |= metrics
        if self.due(self.config.log_every) or self.step == self.total_steps:
            self.log(metrics)
        self.at("what follows a step")
        self.hooks.step_end(run=self, metrics=metrics)
        if self.pace:
            self.pace.pause()
        if self._rollback:
            from hfx.rollback import roll_back

            asked, self._rollback = self._rollback, None
            roll_back(self, asked)
        return metrics

    def go_back(self, reason: str, first_bad: int, times: int, otherwise: str) -> None:
        """Ask to go back to the newest checkpoint before a step, and on with the data behind this one's batch.

        For plugins that listen to steps: all ranks ask alike. It is done once all listeners were told of the step;
        where two ask, the first one is heard.

        Args:
            reason: Why: what is said, and written into `metrics.jsonl`.
            first_bad: The first step that is to be undone.
            times: How often the run may go back without getting to a newer checkpoint, before it ends with an error.
            otherwise: What else a user can do about it, an option, for that error.
        """
        from hfx.rollback import Rollback

        self._rollback = self._rollback or Rollback(reason, first_bad, times, otherwise)

    def move_to(self, position: Position) -> None:
        """Go on with the data from another position on."""
        self._parts["position"] = position
        self.epoch = self.order.epoch_at(position, self.streams)
        self._moved = True

    def measure(self, name: str, figure: Callable[[dict[str, Any]], float | None]) -> None:
        """Add a figure to every step's metrics: a function of the step's metrics, called after each of them.

        For plugins: whoever listens to steps, and `metrics.jsonl`, has it. None: there is none for this step.

        Raises:
            PluginError: a figure of this name is there already.
        """
        if name in self._figures:
            raise PluginError(f"two plugins add the figure '{name}' to a step's metrics; drop one of them")
        self._figures[name] = figure

    def advance(self, batch: GlobalBatch, stop_code: int, saved: int = 0) -> None:
        """Take note that a batch was trained on, and of what the ranks together say about stopping and saving."""
        self._all_saved = saved == self.world.size
        self.step += 1
        self.tokens_total += batch.tokens
        self._parts["position"] = batch.next
        self.epoch = self.order.epoch_at(batch.next, self.streams)
        self._stopping = self._stopping or stop_code > 0
        self._follow(stop_code)

    def evaluate(self) -> dict[str, float]:
        """Evaluate, log it, tell the listeners, and return the figures; `{}` without evaluation rows."""
        from hfx.evaluation import evaluate

        before, self._evaluated_at = self._evaluated_at, self.step
        if not self.has_eval:
            return {}
        self.at("an evaluation")
        try:
            figures = evaluate(self)
        except StoppedWaiting as told:
            self._evaluated_at = before  # the resumed run makes up for it
            self._stop_here(told.code)
            return {}
        self.last_metrics |= figures
        self.log({"step": self.step, "epoch": self.epoch, **figures})
        self.hooks.evaluated(run=self, metrics=figures)
        if self._saved_at == self.step:  # made up for after a stop: the checkpoint on disk holds nothing of it
            self._saved_at = -1
            self.ask_for("checkpoint")
        return figures

    @property
    def has_eval(self) -> bool:
        """True where there are rows to evaluate on."""
        if self.config.eval_data is None and not len(self.rows("eval")):
            return False
        return len(self.table("eval")) > 0

    def due(self, every: int | None) -> bool:
        """Return whether this step is a multiple of `every`; never for None."""
        return every is not None and self.step > 0 and self.step % every == 0

    def evaluation_due(self) -> bool:
        """Return whether an evaluation belongs to this step and has not been made."""
        wanted = self.due(self.config.eval_every) or self.step >= self.total_steps or "evaluation" in self._asked
        return wanted and self._evaluated_at != self.step

    def save_due(self) -> bool:
        """Return whether a checkpoint belongs to this step and has not been made."""
        ends = self.step >= self.total_steps or self._stopping
        wanted = self.due(self.config.save_every) or ends or "checkpoint" in self._asked
        return wanted and self._saved_at != self.step

    def ask_for(self, what: Literal["evaluation", "checkpoint"]) -> None:
        """Ask for an evaluation or a checkpoint of this step, which the loop makes once all listeners were told of it.

        For plugins that listen to steps or evaluations: all ranks ask alike.
        """
        self._asked.add(what)

    def choose(self, why: str) -> None:
        """Save this step's checkpoint, keep it until another one is chosen, and export its model at the end.

        For plugins that listen to evaluations; all ranks choose alike.

        Args:
            why: What speaks for it: told where the model is exported.
        """
        from hfx.choice import choose

        self.ask_for("checkpoint")
        choose(self, why)

    @property
    def chosen(self) -> int | None:
        """The step whose checkpoint is kept and exported; None: the last one is exported."""
        from hfx.choice import chosen_in

        return chosen_in(self.state)

    def log(self, metrics: dict[str, Any]) -> None:
        """Append a line to `metrics.jsonl`."""
        if self.world.is_main:
            self._record("metrics").append(redacted(metrics))

    def _record(self, name: str) -> Record:
        return Record(self.output / f"{name}.jsonl")

    # ── ranks ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def pace(self) -> Pace | None:
        """How this rank's steps compare to the others'; None for one rank, or where the backend does not measure."""
        meter = getattr(self.backend, "communication", None)
        if self._pace is None and meter is not None and self.world.size > 1:
            from hfx.communication import Pace

            self._pace = Pace(meter, self.world.rank, self.world.size)
        return self._pace

    def watch(self) -> None:
        """Let the other ranks know where this one is, from here to the end of the run."""
        from hfx.watch import Watch

        self._watch = Watch(self.store, self.world)
        self.enter(self._watch.telling())

    def at(self, what: str) -> None:
        """Say what this rank begins now; all ranks say the same, in the same order."""
        if self._watch:
            self._watch.at(f"step {self.step + 1}, {what}")

    def hanging(self) -> str | None:
        """Return who the other ranks wait for, and where it hangs; None where nobody is behind."""
        return self._watch.hanging() if self._watch else None

    # ── stopping ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def request_stop(self, reason: str) -> None:
        """Ask for the end of the run; all ranks agree at the step's boundary, save, and stop. Signals come first."""
        if self._stopping:
            return  # what they agreed on decides what all do next
        if reason not in STOP_SIGNALS:
            self._wish = self._wish or reason
        if self._stop is None or (reason in STOP_SIGNALS and not self.signalled):
            self._stop = reason

    def waits(self, missing: bool) -> bool:
        """Return whether to wait on for a block of a stream, which is missing here or came.

        All ranks ask for the same blocks in the same order, and each waits for its own reading of them. So that none
        leaves while others step, they agree here, now and then, on both: whether one is missing, and whether to stop.

        Raises:
            StoppedWaiting: a block is missing on some rank, and some rank was told to end; all leave alike.
        """
        code = self.stop_code
        if self.world.size > 1:
            import torch

            both = self.backend.all_reduce(torch.tensor([missing, code], dtype=torch.float64))
            missing, code = bool(both[0]), int(both[1])
        if missing and code >= _SIGNALLED:
            raise StoppedWaiting(code)
        return missing

    def _stop_here(self, code: int) -> None:
        self._stopping = True
        self._follow(code)

    def _follow(self, code: int) -> None:
        """Take the reason that the ranks' codes together tell: all of them have to end alike."""
        if code >= _SIGNALLED and not self.signalled:
            self._stop = "SIGTERM" if code % _REQUEUED >= _SIGNALLED else "SIGUSR1"
        elif 0 < code < _SIGNALLED and self.signalled:
            self._stop = self._wish or "another rank asked for it"  # the signal came when that was agreed

    def stop_now(self, reason: str) -> None:
        """End the run at this step: for a loop, where all ranks decided alike; `request_stop` lets them agree."""
        if self._stopping:
            return
        self._stop = self._stop or reason
        self._stopping = True
        if self.world.size > 1:  # a signal may have reached some of them only
            import torch

            codes = self.backend.all_reduce(torch.tensor([self.stop_code], dtype=torch.float64))
            self._follow(int(codes))

    @property
    def stop_code(self) -> int:
        """What this rank adds to the agreement: 0, 1 for a plugin's wish, more for a signal, most for SIGUSR1."""
        if self._stop == "SIGUSR1":
            return _REQUEUED
        return 0 if self._stop is None else _SIGNALLED if self.signalled else 1

    @property
    def signalled(self) -> bool:
        """True where a signal asked this rank for the end, or the ranks follow one that another rank was sent."""
        return self._stop in STOP_SIGNALS

    @property
    def stop_wanted(self) -> bool:
        """True where this rank asks for the end."""
        return self._stop is not None

    @property
    def stopping(self) -> bool:
        """True once the ranks agreed to stop."""
        return self._stopping

    def enter(self, manager: AbstractContextManager[T]) -> T:
        """Enter a context that is closed when the run ends, however it ends."""
        return self._exit.enter_context(manager)

    def close(self) -> None:
        """Close what plugins entered, leave the process group, and let go of model and engine."""
        self._saver.close()
        blocks = [self._parts[label] for label in ("blocks/train", "blocks/eval") if label in self._parts]
        for of_split in blocks:
            of_split.leave()  # before its source is closed, or a block that ends there would be taken for whole
        try:
            self._exit.close()
            for of_split in blocks:
                of_split.close()
        finally:
            for name in ("schedule", "optimizer", "module", "model"):
                self._parts.pop(name, None)
            if "backend" in self._parts:
                self.backend.close()
            self._parts.pop("backend", None)
            if self.world.size > 1:
                gc.collect()  # an engine whose threads are left to the interpreter's exit may abort it

    def result(self) -> RunResult:
        """Return how the run stands."""
        stopped = (self._stop or "another rank asked for it") if self._stopping else None
        return RunResult(self.output, dict(self.last_metrics), self.step, stopped)

    # ── saving ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def save(self) -> Path:
        """Save a checkpoint of this step, drop the oldest, tell the listeners, and return its folder.

        With `async_save` it is written while the training goes on, and the listeners are told after a later step, once
        all ranks are done with it. The run's last one is waited for.
        """
        self.at("a checkpoint")
        self._saved_at = self.step
        last = self.step >= self.total_steps or self._stopping
        return self._saver.save(beside=self.config.async_save and not last)

    @property
    def save_ended(self) -> bool:
        """True where this rank is done with a checkpoint that it wrote while the training went on."""
        return self._saver.ended

    def finish_saving(self) -> None:
        """Wait for a checkpoint that is being written, and tell the listeners; all ranks do so at the same step."""
        self._saver.finish()

    def restore(self, found: Checkpoint) -> None:
        """Go on from a checkpoint: tensors, counters, position, schedule and plugins' state; cut the records."""
        from hfx import state

        state.restore(self, found)
