"""`hfx plan`: what a run will hold, compute and take, before its first step."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.data_run import opened
from hfx.cli.run_command import RunCommand, arguments
from hfx.cli.shown import to_stdout
from hfx.errors import ConfigError, HfxError, UsageError, nearest

if TYPE_CHECKING:
    from hfx.fit import Fit, Variant
    from hfx.plan import Plan
    from hfx.run import Run

EPILOG = """
Examples:
  hfx plan --model gpt2 --data 'texts/*.jsonl' --batch-size 64
  hfx plan config.yaml --fit 8GiB          the cheapest techniques that fit
  hfx plan config.yaml --device h100       time from a published rate
  hfx plan config.yaml --nproc 8 --plugin fsdp    what each of eight processes holds
"""
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@click.command("plan", cls=RunCommand, epilog=EPILOG)
@click.option("--fit", metavar="SIZE", help="Find the cheapest techniques with which the run holds at most this: 8GiB.")
@click.option(
    "--device", metavar="NAME", help="Take the time from a published rate: h100, a100, ... [default: measured]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, fit: str | None, device: str | None, as_json: bool, **_: Any) -> int:
    """Say what a run will hold in memory, compute and take, without training.

    The data are prepared as for a run. The run's own step is traced on tensors without content: no weight is read, and
    what the plan holds itself is small. Of several processes it says what each of them holds.
    """
    from hfx.plan import plan
    from hfx.ranks import ranks_of

    budget = _bytes(fit) if fit else None
    run = opened(ctx)
    rate, rate_from = _rate(run, device)
    run.table("train")
    said: list[str] = []
    found = plan(run, said=said, ranks=ranks_of(run))
    techniques = [] if as_json else _techniques(ctx, run, found)
    fitting = _fit(ctx, run, budget) if budget is not None else None
    if as_json:
        click.echo(json.dumps(_figures(run, found, rate, fitting), indent=1))
    else:
        for line in [*said, *_lines(run, found, rate, rate_from), *techniques]:
            to_stdout(line)
        if fitting:
            click.echo("\n".join(_fit_lines(ctx, fitting)))
    if budget is not None and fitting is None:
        raise HfxError(f"nothing that was tried fits into {fit}; lower 'seq_length', or take a smaller model")
    return 0


def _bytes(text: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?\s*", text, re.IGNORECASE)
    if not match:
        raise UsageError(f"'--fit {text}' is no size; write it as 8GiB or 500MiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def _rate(run: Run, device: str | None) -> tuple[float, str]:
    from hfx.rates import PUBLISHED, computed_in, measured

    if device is None:
        dtype = computed_in(run.hooks.precision(run=run), run.device)
        return measured(run.device, dtype), f"measured on {run.device}"
    if device not in PUBLISHED:
        raise UsageError(
            f"no rate is known of '{device}';{nearest(device, PUBLISHED)} known are {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[device], f"published for {device}, bf16"


# ── variants ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _planned(ctx: click.Context, run: Run, variant: Variant) -> Plan | None:
    """Return the plan of what was typed, with more words, on the run's data; None where a plugin refuses them."""
    from hfx.api import problems
    from hfx.plan import plan, with_data_of
    from hfx.ranks import ranks_of
    from hfx.run import Run

    own = arguments(ctx)
    dropped = tuple(f"{name.removeprefix('no:')}." for name in variant.plugins if name.startswith("no:"))
    options = [(path, value) for path, value in own.plugin_options if not path.startswith(dropped)]
    typed = replace(
        own,
        plugins=(*own.plugins, *variant.plugins),
        plugin_options=[*(options if dropped else own.plugin_options), *variant.options],
        fields=own.fields | variant.fields,
    )
    try:
        resolved = typed.resolve()
    except ConfigError:
        return None  # another optimizer or backend than the one that was typed
    if any(problem.fatal for problem in problems(resolved)):
        return None
    return plan(with_data_of(run, Run(resolved, run.output, run.world)), ranks=ranks_of(run))


def _techniques(ctx: click.Context, run: Run, whole: Plan) -> list[str]:
    """Return a line for each plugin around model or optimizer: what it saves, and what it costs."""
    from hfx.fit import Variant

    lines = []
    for active in run.active:
        if not any(active in run.hooks.wrappers(hook) for hook in ("hfx_model", "hfx_optimizer")):
            continue
        without = _planned(ctx, run, Variant(plugins=(f"no:{active.name}",)))
        if without is None:
            continue
        saved = without.peak.total() - whole.peak.total()
        lines.append(
            f"technique  {active.name}: {_size(abs(saved))} {'less' if saved >= 0 else 'more'} than without it, "
            f"{whole.flops / max(1, without.flops):.2f} times the operations"
        )
    return lines


def _fit(ctx: click.Context, run: Run, budget: int) -> Fit | None:
    from hfx.fit import fit
    from hfx.ranks import ranks_of

    names = frozenset(active.name for active in run.active)
    micro = run.config.micro_batch_size
    return fit(lambda variant: _planned(ctx, run, variant), budget, micro, names, ranks_of(run))


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _size(size: int) -> str:
    return f"{size / 2**30:,.2f} GiB" if size >= 2**30 else f"{size / 2**20:,.0f} MiB"


def _lines(run: Run, found: Plan, rate: float, rate_from: str) -> list[str]:
    seconds = found.flops / rate
    kinds = ", ".join(f"{kind} {_size(size)}" for kind, size in found.peak.most_common() if size >= 2**20)
    layers = f"{found.traced[0]} and {found.traced[1]}" if len(found.traced) > 1 else "all"
    alone = found.ranks == 1
    each = "" if alone else " each"
    traced = f"{found.tokens:,} tokens" if alone else f"{found.tokens:,} tokens, {found.tokens_each:,} of them here"
    in_all = "" if alone else f", {found.flops * found.tokens / max(1, found.tokens_each):.3g} in all"
    return [
        *_rank_lines(run, found),
        f"memory     {_size(found.peak.total())}{each} at most, in the {found.moment}: {kinds}",
        f"traced     {layers} of {found.layers} layers, the largest batch of the first steps ({traced})",
        f"compute    {found.flops:.3g} operations a step{each}{in_all}; at {rate:.3g} a second ({rate_from})",
        f"time       at least {seconds:,.2g} s a step, {_duration(seconds * run.total_steps)} in all; "
        f"at most {found.tokens / seconds:,.0f} tokens/s",
        *_left_out(found),
    ]


def _left_out(found: Plan) -> list[str]:
    names = ", ".join(f"'{name}'" for name in sorted(found.left_out))
    return [f"without    {names}: the figures are those of the same run without it"] if names else []


def _rank_lines(run: Run, found: Plan) -> list[str]:
    """Return what a process is of all, and which share of everything its backend says it holds."""
    if found.ranks == 1:
        return []
    backend = run.resolved.roles["backend"].plugin
    if found.shares is None:
        return [
            f"processes  {found.ranks}; '{backend}' does not say what each of them holds, so the memory is that of one "
            "process with all parameters, gradients and state"
        ]
    names = {"parameters": found.shares.parameters, "gradients": found.shares.gradients, "state": found.shares.state}
    shares = ", ".join(f"{share:.1%} of the {name}".replace(".0%", "%") for name, share in names.items())
    return [f"processes  {found.ranks} under '{backend}', each with {shares}; sending to each other takes time, too"]


def _duration(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:,.1f} h"
    )


def _fit_lines(ctx: click.Context, fitting: Fit) -> list[str]:
    words = fitting.variant.words()
    if not words:
        return ["fit        it fits as it is"]
    typed = " ".join(_own_words(ctx))
    more = "; the other optimizer learns otherwise" if fitting.changes_result else ""
    return [
        f"fit        {_size(fitting.plan.peak.total())} at most ({fitting.tried} tried{more}):",
        f"hfx train {typed} {words}".replace("  ", " "),
    ]


def _own_words(ctx: click.Context) -> list[str]:
    """Return what was typed for the run, quoted for a shell, without this command's own options."""
    import shlex

    words, kept = iter(arguments(ctx).words), []
    for word in words:
        if word in ("--fit", "--device"):
            next(words, None)
        elif word != "--json" and not word.startswith(("--fit=", "--device=")):
            kept.append(shlex.quote(word))
    return kept


def _figures(run: Run, found: Plan, rate: float, fitting: Fit | None) -> dict[str, Any]:
    seconds = found.flops / rate
    return {
        "peak_bytes": found.peak.total(),
        "moment": found.moment,
        "bytes": dict(found.peak),
        "moments": {name: peak.total() for name, peak in found.peaks.items()},
        "ranks": found.ranks,
        "shares_known": found.ranks == 1 or found.shares is not None,
        "bytes_at_update": dict(found.peaks.get("optimizer", {})),
        "tokens_per_step_each": found.tokens_each,
        "left_out": sorted(found.left_out),
        "parameters": found.parameters,
        "trained_parameters": found.trained,
        "tokens_per_step": found.tokens,
        "flops_per_step": found.flops,
        "flops_per_second": rate,
        "seconds_per_step": seconds,
        "seconds": seconds * run.total_steps,
        "steps": run.total_steps,
        "fit": fitting and {"words": fitting.variant.words(), "peak_bytes": fitting.plan.peak.total()},
    }
