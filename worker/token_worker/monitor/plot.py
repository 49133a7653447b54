"""Plots as paths of SVG: steps, with a gap where a figure is missing. Pure."""

from collections.abc import Iterator, Sequence

HEIGHT = 40
"""Height of a plot in its own units. Its width is one unit for each step."""


def area(values: Sequence[float | None], top: float) -> str:
    """The area below the values; ``top`` is the value at the upper edge."""
    return "".join(
        f"M{start} {HEIGHT}V{heights[0]}{_steps(heights)}V{HEIGHT}z" for start, heights in _runs(values, top)
    )


def line(values: Sequence[float | None], top: float) -> str:
    """A line along the values."""
    return "".join(f"M{start} {heights[0]}{_steps(heights)}" for start, heights in _runs(values, top))


def _runs(values: Sequence[float | None], top: float) -> Iterator[tuple[int, list[int]]]:
    """The parts without a gap: where each starts, and the distances of its values from the upper edge."""
    scale = (HEIGHT - 1) / top if top > 0 else 0.0  # a unit is left, so that the line is not cut
    run: list[int] = []
    for index, value in enumerate(values):
        if value is not None:
            run.append(HEIGHT - int(value * scale + 0.5) - (value > 0 and value * scale < 0.5))
        elif run:
            yield index - len(run), run
            run = []
    if run:
        yield len(values) - len(run), run


def _steps(heights: Sequence[int]) -> str:
    """Go right along the heights. Equal ones make one step."""
    parts: list[str] = []
    last, length = heights[0], 0
    for height in heights:
        if height != last:
            parts.append(f"h{length}V{height}")
            last, length = height, 0
        length += 1
    parts.append(f"h{length}")
    return "".join(parts)
