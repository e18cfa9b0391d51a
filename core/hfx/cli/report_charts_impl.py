"""The charts of `hfx report`, drawn by bokeh: steps on the x axis, which all of them share, a line for each run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bokeh.embed import components
from bokeh.models import (
    BasicTickFormatter,
    BoxZoomTool,
    ColumnDataSource,
    DataRange1d,
    HoverTool,
    NumeralTickFormatter,
    PanTool,
    ResetTool,
    Span,
    WheelZoomTool,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from hfx.cli.curves import Numbers, column, means, smoothed, thinned
from hfx.figures import Figures

COLORS = ("#3d85c6", "#d9822b", "#2f9e6e", "#c2539b", "#8a6fd1", "#b1891b", "#d1495b", "#2ea3b7")
"""Told apart on a light and on a dark ground."""
PARTS = {
    "data_seconds": ("data", "#d9822b"),
    "forward_backward_seconds": ("forward and backward", "#3d85c6"),
    "sync_seconds": ("sync", "#c2539b"),
    "optimizer_seconds": ("optimizer", "#2f9e6e"),
}
"""What the time of a step goes to."""
_BYTES = 1_100_000
"""What the points of all charts may take of the page."""
_FEWEST, _MOST = 200, 6_000
"""Points of a curve."""
_BYTES_EACH = 20 * 4 / 3
"""Of a point: its step and two values, in base64."""
_HEIGHT = 260


@dataclass(frozen=True)
class Drawn:
    """A run as the charts need it."""

    name: str
    figures: Figures
    plan: dict[str, Any]

    def steps(self) -> Numbers:
        """Return the steps that were recorded, `(steps,)`."""
        return column(self.figures["step"])


@dataclass
class Charts:
    """Charts by their keys, and how they are titled."""

    runs: list[Drawn]
    found: dict[str, Any] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    range: DataRange1d = field(default_factory=lambda: DataRange1d(range_padding=0.01))

    @property
    def most(self) -> int:
        """Points of a curve, so that all of them together stay small."""
        names = {name for run in self.runs for name in run.figures.columns}
        return int(min(_MOST, max(_FEWEST, _BYTES / _BYTES_EACH / max(1, len(names) * len(self.runs)))))

    def embedded(self) -> tuple[str, dict[str, str]]:
        """Return the script that draws all charts, and the element of each by its key."""
        if not self.found:
            return "", {}
        script, elements = components(self.found)
        return str(script), {key: str(element) for key, element in elements.items()}

    # ── kinds of charts ──────────────────────────────────────────────────────────────────────────────────────────────

    def curve(
        self, name: str, title: str, *, scale: float = 1.0, smooth: bool = False, form: str = "0,0.[000]"
    ) -> None:
        """Draw a figure of the steps, a line for each run that has it.

        Args:
            name: The figure's name in `metrics.jsonl`, and the chart's key.
            title: What it is, with its unit.
            scale: What its values are multiplied by.
            smooth: Whether a moving average is drawn over the values, which are fainter then.
            form: How a value is shown beside the pointer.
        """
        plot = self._plot(name, title, form)
        for at, run in enumerate(self.runs):
            if name not in run.figures.columns:
                continue
            values = column(run.figures[name]) * scale
            values[~np.isfinite(values)] = np.nan
            if np.isnan(values).all():
                continue
            average = smoothed(values, max(5.0, len(values) / 60)) if smooth else values
            places = thinned(values, self.most)
            source = _source({"x": run.steps()[places], "y": values[places], "smooth": average[places]})
            color, tags = COLORS[at % len(COLORS)], [at]
            if smooth:
                plot.line("x", "y", source=source, color=color, alpha=0.3, line_width=1, tags=[*tags, "raw"])
            # A line needs two points: a run of one step would show nothing.
            if len(places) == 1:
                plot.scatter("x", "y", source=source, color=color, size=6, tags=tags)
            line = plot.line("x", "smooth", source=source, color=color, line_width=1.8, tags=tags, name=run.name)
            self._hover(plot, line, form, raw=smooth)
        self._keep(name, plot, title)

    def evaluation(self, name: str, title: str) -> None:
        """Draw a figure of the evaluations, a line with points for each run that has it."""
        plot = self._plot(name, title, "0,0.[0000]")
        for at, run in enumerate(self.runs):
            lines = [line for line in run.figures.evaluations if isinstance(line.get(name), int | float)]
            values = np.array([float(line[name]) for line in lines])
            values[~np.isfinite(values)] = np.nan
            if not len(values) or np.isnan(values).all():
                continue
            source = _source({"x": np.array([float(line["step"]) for line in lines]), "y": values})
            color, tags = COLORS[at % len(COLORS)], [at]
            plot.line("x", "y", source=source, color=color, line_width=1.8, tags=tags)
            points = plot.scatter("x", "y", source=source, color=color, size=6, tags=tags, name=run.name)
            self._hover(plot, points, "0,0.[0000]", raw=False)
        self._keep(name, plot, title)

    def time(self, title: str) -> None:
        """Draw what the seconds of a step went to, one upon the other, of the one run there is."""
        [run] = self.runs
        names = [name for name in PARTS if name in run.figures.columns]
        if not names:
            return
        plot = self._plot("time", title, "0,0.000")
        most = min(self.most, 500)
        parts = {name: np.nan_to_num(means(column(run.figures[name]), most)) for name in names}
        source = _source({"x": means(run.steps(), most), **parts})
        tags: list[Any] = [0]
        colors = [PARTS[name][1] for name in names]
        plot.varea_stack(names, x="x", source=source, color=colors, fill_alpha=0.75, tags=[tags] * len(names))
        top = plot.line("x", names[0], source=source, line_alpha=0, tags=tags)
        tips = [("step", "@x{0,0}"), *((PARTS[name][0], f"@{name}{{0,0.000}} s") for name in names)]
        plot.add_tools(HoverTool(renderers=[top], tooltips=tips, mode="vline", line_policy="nearest"))
        self._planned(plot, 0, run.plan.get("seconds_per_step"))
        self._keep("time", plot, title)

    def memory(self, title: str) -> None:
        """Draw the most memory so far, and what the plan says where there is one."""
        self.curve("memory_bytes", title, scale=2.0**-30, form="0,0.00")
        if plot := self.found.get("memory_bytes"):
            plot.y_range.start = 0
            for at, run in enumerate(self.runs):
                self._planned(plot, at, run.plan.get("peak_bytes", 0) / 2**30)

    def _planned(self, plot: Any, at: int, value: float | None) -> None:
        """Draw what the plan says; a line, which the chart makes room for, and not a mark."""
        steps = self.runs[at].steps()
        if value and len(steps):
            style = {"line_dash": "dashed", "line_width": 1.5, "color": "#d1495b"}
            plot.line([steps[0], steps[-1]], [value, value], tags=[at], **style)

    # ── what all of them have ────────────────────────────────────────────────────────────────────────────────────────

    def _plot(self, key: str, title: str, form: str) -> Any:
        zoom = BoxZoomTool(dimensions="width")
        plot = figure(
            name=key, height=_HEIGHT, sizing_mode="stretch_width", x_range=self.range, toolbar_location="above",
            tools=[zoom, PanTool(dimensions="width"), WheelZoomTool(dimensions="width"), ResetTool()], active_drag=zoom,
            active_scroll=None, background_fill_color=None, border_fill_color=None, outline_line_color=None,
            min_border_left=52, min_border_right=8,
        )  # fmt: skip
        plot.toolbar.logo = None
        plot.toolbar.autohide = True
        plot.y_range.only_visible = True
        plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
        plot.yaxis.formatter = NumeralTickFormatter(format=form) if form == "0,0" else BasicTickFormatter()
        plot.xaxis.ticker.desired_num_ticks = plot.yaxis.ticker.desired_num_ticks = 5
        for axis in (*plot.xaxis, *plot.yaxis):
            axis.minor_tick_line_color = None
            axis.major_tick_in = 0
            axis.major_label_text_font_size = "12px"
        plot.xgrid.grid_line_color = None
        return plot

    def _hover(self, plot: Any, renderer: Any, form: str, raw: bool) -> None:
        tips = [("run", "$name"), ("step", "@x{0,0}"), ("value", f"@y{{{form}}}")]
        tips += [("smoothed", f"@smooth{{{form}}}")] if raw else []
        plot.add_tools(
            HoverTool(renderers=[renderer], tooltips=tips, mode="vline", line_policy="nearest", visible=False)
        )

    def _keep(self, key: str, plot: Any, title: str) -> None:
        if plot.renderers:
            # What never changes stands in the middle of a stretch of its own size, not of -1 to 1.
            plot.y_range.default_span = _size(plot) or 1.0
            self.found[key], self.titles[key] = plot, title

    def mark(self, run: int, steps: list[int]) -> None:
        """Draw a line in the chart of the loss where something happened to a run."""
        if plot := self.found.get("loss"):
            for step in steps:
                color = COLORS[run % len(COLORS)]
                span = Span(location=step, dimension="height", line_color=color, line_dash="dotted", line_alpha=0.8)
                span.tags = [run]
                plot.add_layout(span)


def _size(plot: Any) -> float:
    """Return the largest value that a chart shows."""
    shown = [drawn.data_source.data["y"] for drawn in plot.renderers if "y" in drawn.data_source.data]
    sizes = [np.abs(np.asarray(values, dtype=np.float64)) for values in shown]
    return max((float(np.nanmax(values)) for values in sizes if np.isfinite(values).any()), default=0.0)


def _source(columns: dict[str, Numbers]) -> ColumnDataSource:
    """Return columns of `(points,)`, `x` among them, as what is drawn, in half the bytes."""
    found: dict[str, Any] = {name: values.astype(np.float32) for name, values in columns.items()}
    return ColumnDataSource(found | {"x": columns["x"].astype(np.int32)})


def bokeh_script() -> str:
    """Return bokeh's own script, whole, in its element."""
    return str(Resources(mode="inline", components=["bokeh"]).render_js())


def drawn(runs: list[Drawn], known: dict[str, str]) -> Charts:
    """Return all charts of some runs; `known` are titles of figures by name, in the order of the page."""
    charts = Charts(runs)
    charts.curve("loss", known["loss"], smooth=True, form="0,0.0000")
    charts.curve("lr", known["lr"], form="0.00e+0")
    charts.curve("grad_norm", known["grad_norm"], smooth=True, form="0,0.000")
    names = dict.fromkeys(name for run in runs for line in run.figures.evaluations for name in line)
    for name in [name for name in names if name.startswith("eval_")][:12]:
        charts.evaluation(name, name.removeprefix("eval_").replace("_", " "))
    charts.curve("tokens_per_second", known["tokens_per_second"], smooth=True, form="0,0")
    if len(runs) == 1:
        charts.time(known["time"])
    else:
        charts.curve("step_seconds", known["step_seconds"], smooth=True, form="0,0.000")
    charts.memory(known["memory_bytes"])
    charts.curve("comm_seconds", known["comm_seconds"], smooth=True, form="0,0.000")
    charts.curve("comm_wait_seconds", known["comm_wait_seconds"], smooth=True, form="0,0.000")
    shown = {*known, *PARTS, "step", "epoch", "tokens", "tokens_total", "skipped", "straggler", "straggler_seconds"}
    shown |= {"comm_bytes", "comm_bytes_per_second", "step_seconds"}
    others = dict.fromkeys(name for run in runs for name in run.figures.columns if name not in shown)
    for name in list(others)[:8]:
        charts.curve(name, name.replace("_", " "), smooth=True)
    return charts
