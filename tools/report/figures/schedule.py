"""Charts of a schedule search as plotly figures: what was drawn when, and what the rewards were worth."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drawstream.tools.report.figures.training import BLUE, GRAY, GREEN, ORANGE, Figure, axes

Floats = NDArray[np.float64]
STAGE_STYLES = ((GRAY, "dot"), (GREEN, "dash"), (BLUE, "solid"))


def segments_figure(parts: Floats, names: Sequence[str], /) -> Figure:
    """Fig. 2 of the paper: counts of the segments in each stage, over their mean; the last stage rises.

    Args:
        parts: float64 (stages, segments), as `segment_counts` gives them.
        names: Of the stages.
    """
    places = [round(100 * (i + 0.5) / parts.shape[1], 2) for i in range(parts.shape[1])]
    styles = STAGE_STYLES[-len(names) :]
    data = []
    for part, name, (colour, dash) in zip(parts, names, styles, strict=True):
        line = {"color": colour, "dash": dash, "width": 2.5 if dash == "solid" else 1.8}
        hover = f"{name}, rows up to rank %{{x:.0f}} %: %{{y:.3f}}<extra></extra>"
        data.append(_trace(places, part, name, line) | {"hovertemplate": hover})
    layout = axes("Rows ranked by their count in the last stage (%)", "Count in the stage over its mean")
    layout["xaxis"]["range"] = [0, 100]
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


def loss_figure(loss: NDArray[np.float32], counts: NDArray[np.int64], wrong: NDArray[np.bool_] | None, /) -> Figure:
    """Fig. 4 of the paper as a cloud: count of some rows against their loss, those with a wrong label apart."""
    groups = [("Rows", np.ones(loss.size, dtype=bool), BLUE, "circle")]
    if wrong is not None and wrong.any():
        groups = [("Right label", ~wrong, BLUE, "circle"), ("Wrong label", wrong, ORANGE, "diamond-open")]
    data = []
    for name, here, colour, symbol in groups:
        marker = {"color": colour, "symbol": symbol, "size": 6, "opacity": 0.65}
        point = _trace(loss[here].round(4).tolist(), counts[here], name, {}) | {"mode": "markers", "marker": marker}
        data.append(point | {"hovertemplate": f"{name}: loss %{{x:.3f}}, drawn %{{y}} times<extra></extra>"})
    layout = axes("Loss under the final weights (nats)", "Times drawn in the whole run")
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


def rewards_figure(rewards: Floats, ends: Floats, name: str, /) -> Figure:
    """Reward over the run: the chosen child, and the band from the worst to the best.

    Args:
        rewards: float64 (intervals, children); a child that diverged has none.
        ends: Epochs done at the end of each interval, float64 (intervals,).
        name: Of the reward, with its unit.
    """
    x = ends.round(3).tolist()
    edge = {"color": GRAY, "width": 0}
    low = _trace(x, np.nanmin(rewards, 1), "Worst child", edge) | {"showlegend": False, "hoverinfo": "skip"}
    high = _trace(x, np.nanmax(rewards, 1), "From the worst to the best child", edge)
    high |= {"fill": "tonexty", "fillcolor": "rgba(125,133,144,0.35)", "hoverinfo": "skip"}
    middle = _trace(x, np.nanmean(rewards, 1), "Mean of the children", {"color": ORANGE, "dash": "dash", "width": 1.8})
    best = _trace(x, np.nanmax(rewards, 1), "Chosen child", {"color": BLUE, "width": 1.8})
    for trace in (middle, best):
        trace["hovertemplate"] = f"epoch %{{x:.2f}}, {str(trace['name']).lower()}: %{{y:.3f}}<extra></extra>"
    return {"data": [low, high, middle, best], "layout": axes("Epoch", name)}


def spread_figure(rewards: Floats, ends: Floats, binomial: Floats | None, unit: str, /) -> Figure:
    """Standard deviation between the children of each interval, and the noise of one reward beside it.

    Args:
        rewards: float64 (intervals, children >= 2).
        ends: Epochs done at the end of each interval, float64 (intervals,).
        binomial: Standard deviation of a reward over evaluation sets of the same size, float64 (intervals,); None where
            the reward is no accuracy.
        unit: Of the reward.
    """
    x = ends.round(3).tolist()
    between = _trace(x, rewards.std(1, ddof=1), "Between the children", {"color": BLUE, "width": 1.2})
    between |= {"mode": "markers", "marker": {"color": BLUE, "size": 6}}
    between["hovertemplate"] = f"epoch %{{x:.2f}}: %{{y:.3f}} {unit} between the children<extra></extra>"
    data = [between]
    if binomial is not None:
        noise = _trace(x, binomial, "Binomial noise of one reward", {"color": ORANGE, "dash": "dash", "width": 2})
        data.append(noise | {"hovertemplate": f"epoch %{{x:.2f}}: %{{y:.3f}} {unit} of noise<extra></extra>"})
    layout = axes("Epoch", f"Standard deviation ({unit})")
    layout["yaxis"]["rangemode"] = "tozero"
    return {"data": data, "layout": layout}


def _trace(x: Sequence[float], y: Floats | NDArray[np.int64], name: str, line: Figure) -> Figure:
    values = [None if np.isnan(value) else round(value, 5) for value in y.astype(np.float64).tolist()]
    return {"type": "scatter", "mode": "lines", "name": name, "x": list(x), "y": values, "line": line}
