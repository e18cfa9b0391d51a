"""The fields of a run: what `config.yaml`, the flags of `hfx train` and the arguments of `hfx.train` all set."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from hfx.secret import refuse_password

DEFAULT_EPOCHS = 1.0


class RunConfig(BaseModel):
    """What is trained on what, for how long, and where to; every decision beyond that is a plugin."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    model: str | None = None
    """A hub id, a folder or a `.gguf` file to start from; none: built from scratch."""
    data: str | dict[str, str] | None = None
    """A path, glob or folder, or a mapping of names to them; handed to the active source."""
    eval_data: str | dict[str, str] | None = None
    """Rows to evaluate on; none: a share of the training rows is held out."""
    eval_share: float = Field(default=0.05, ge=0, lt=1)
    """Share of the rows held out by the hash of their content where there is no `eval_data` (at most 2,000)."""
    output: Path | None = None
    """The run directory; default `runs/<time>-<model>`."""
    steps: PositiveInt | None = None
    """Length of the run in optimizer steps."""
    epochs: PositiveFloat | None = None
    """Length of the run in passes over the data (1 where no length is given)."""
    tokens: PositiveInt | None = None
    """Length of the run in non-padding positions."""
    batch_size: PositiveInt = 32
    """Sequences in a step, over all devices."""
    micro_batch_size: PositiveInt = 8
    """Most sequences in one forward pass on one device; changes memory and speed, the result in its last
    bits alone; dropout is drawn anew."""
    seq_length: PositiveInt = 512
    """Most positions in a sequence."""
    max_grad_norm: PositiveFloat | None = 1.0
    """Gradients are scaled down to this norm; none: never."""
    seed: NonNegativeInt = 0
    """Decides the order of samples, the initial weights and dropout."""
    eval_every: PositiveInt | None = None
    """Steps between evaluations; none: at the end."""
    save_every: PositiveInt | None = None
    """Steps between checkpoints; none: at the end."""
    log_every: PositiveInt = 1
    """Steps between lines of `metrics.jsonl`."""
    async_save: bool = False
    """Write checkpoints while the training goes on, from a copy of the state in the host's memory; the last is waited
    for."""
    keep: int = Field(default=2, ge=2)
    """Newest checkpoints kept, at least two, so that a damaged one has a predecessor; beside them the one that a plugin
    chose (`best`)."""
    num_proc: PositiveInt = 1
    """Processes that prepare the data."""
    max_bad_rows: NonNegativeInt = 0
    """Rows that cannot be read before the run stops; each is written to the quarantine file."""
    resume: str = "never"
    """`never`; `auto`: go on if `output` holds a run, else begin; or the path of a run."""
    nproc: PositiveInt | Literal["auto"] = 1
    """Processes on this machine; `auto`: one for each accelerator, 1 on a CPU."""
    nnodes: str = Field(default="1", pattern=r"^[1-9]\d*(:[1-9]\d*)?$")
    """Machines, `4` or `MIN:MAX`: start the same command on each; with a range they may come and go."""
    rdzv: str | None = Field(default=None, pattern=r"^[^\s:/]+(:\d+)?$")
    """`HOST:PORT` where the machines meet: one of them, and a port that is free there (29400 where none is given)."""

    @field_validator("model", "data", "eval_data")
    @classmethod
    def _no_password(cls, value: str | dict[str, str] | None) -> str | dict[str, str] | None:
        for address in value.values() if isinstance(value, dict) else [value or ""]:
            refuse_password(address)
        return value

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        given = [name for name in ("steps", "epochs", "tokens") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"'{given[0]}' and '{given[1]}' both set the length of the run; give one of them")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the fields that a run is, as JSON values: all but where it is started from and how."""
        return self.model_dump(mode="json", exclude={"resume", "nproc", "nnodes", "rdzv", "num_proc", "output"})


__all__ = ["DEFAULT_EPOCHS", "NonNegativeFloat", "RunConfig"]
