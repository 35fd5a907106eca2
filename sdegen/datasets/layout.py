"""Layout of arrays: which axes are channels, height and width of images, or channels and time of signals."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

Layout = Literal["auto", "channels_first", "channels_last", "grey"]

FEW = 4
"""Number of entries up to which a last axis is taken for the channels of images, and each axis for those of signals."""
LONGER = 4
"""Factor by which the time axis of signals must be longer than the axis of channels, if there are many channels."""


def arranged(values: np.ndarray, layout: Layout) -> tuple[np.ndarray, Layout, tuple[str, ...]]:
    """Returns points ``(N, d)``, signals ``(N, C, L)`` or images ``(N, C, H, W)``, their layout, and a report.

    Numbers ``(N,)`` become points with one coordinate. The axes of other points are not changed.

    Raises:
        ValueError: the array has another number of axes, or the order of its axes is not clear.
    """
    shape, dimensions = values.shape, values.ndim
    if dimensions not in (1, 2, 3, 4) or 0 in shape[1:]:
        raise ValueError(
            f"shape {shape} is neither (N,), (N, d), (N, C, L) nor (N, C, H, W): reshape the array, with one row for "
            f"each point"
        )
    if dimensions < 3:
        return values.reshape(len(values), -1) if dimensions == 1 else values, layout, ()
    chosen: Layout = (_of_images(shape) if dimensions == 4 else _of_signals(values)) if layout == "auto" else layout
    if chosen == "grey" and dimensions == 4:
        raise ValueError(f"layout=grey is for arrays (N, H, W), not for the shape {shape}: use dataset.layout=auto")
    found = {"channels_last": np.moveaxis(values, -1, 1), "grey": values[:, None]}.get(chosen, values)
    if layout != "auto":
        return found, chosen, ()
    kind = "images" if found.ndim == 4 else "signals"
    axes = {"grey": "(N, H, W)", "channels_first": "(N, C, L)", "channels_last": "(N, L, C)"}[chosen]
    axes = axes.replace("L", "H, W") if dimensions == 4 else axes
    sentence = f"read as {kind} {axes}, {_in_words(found.shape)}"
    others = {"channels_first", "channels_last", *(("grey",) if dimensions == 3 else ())} - {chosen}
    return found, chosen, (f"{sentence}: if this is wrong, set dataset.layout={' or '.join(sorted(others))}",)


class Fitted(NamedTuple):
    """Images or signals with the channels first, and the layout that they had."""

    values: np.ndarray
    layout: str


def fitted(values: np.ndarray, layout: Layout, shape: tuple[int | None, ...]) -> Fitted | None:
    """Returns the array in the first order of its axes that has the shape ``(N, *shape)``; None if no order has it.

    ``layout`` is tried first. None in ``shape`` stands for any number of channels.
    """
    orders = {"channels_first": values, "channels_last": np.moveaxis(values, -1, 1), "grey": values[:, None]}
    for name in (layout, *orders):
        sizes = orders[name].shape[1:] if name in orders else ()
        if len(sizes) == len(shape) and all(wanted in (None, size) for wanted, size in zip(shape, sizes, strict=True)):
            return Fitted(orders[name], name)
    return None


def _of_images(shape: tuple[int, ...]) -> Layout:
    """Returns the layout of an array of four axes: images have fewer channels than pixels on each side."""
    _, first, height, last = shape
    if first < min(height, last) or first == height == last == 1:
        return "channels_first"
    if last < min(first, height) and last <= FEW < first:
        return "channels_last"
    if first > height == last > FEW:
        # Square maps of many features, from another network.
        return "channels_first"
    raise ValueError(
        f"shape {shape} may be (N, C, H, W) or (N, H, W, C): set dataset.layout=channels_first or channels_last"
    )


def _of_signals(values: np.ndarray) -> Layout:
    """Returns the layout of an array of three axes: signals if one axis is much shorter, grey images if of bytes."""
    _, first, last = values.shape
    short, long = min(first, last), max(first, last)
    if short != long and (short <= FEW or LONGER * short <= long):
        return "channels_first" if first < last else "channels_last"
    if values.dtype == np.uint8 and short > FEW:
        return "grey"
    raise ValueError(
        f"shape {values.shape} is ambiguous: set dataset.layout=grey for images (N, H, W), channels_first for signals "
        f"(N, C, L), or channels_last for signals (N, L, C)"
    )


def _in_words(shape: tuple[int, ...]) -> str:
    count, channels, *size = shape
    named = f"{channels} channel{'s' * (channels != 1)}"
    return f"{count} of {named} and {' × '.join(map(str, size))} {'pixels' if len(size) == 2 else 'steps'}"
