"""Plots as paths of SVG."""

from token_worker.monitor.plot import HEIGHT, area, line


def test_line_goes_up_with_the_value() -> None:
    """The highest value is near the upper edge, 0 is at the lower edge, equal values are one step."""
    assert line([0, 0, 10], 10) == f"M0 {HEIGHT}h2V1h1"


def test_gap_divides_the_line() -> None:
    """No line leads over a gap."""
    assert line([0, None, None, 0, None], 10) == f"M0 {HEIGHT}h1M3 {HEIGHT}h1"


def test_area_is_closed_at_the_lower_edge() -> None:
    """Each part of an area begins and ends at the lower edge."""
    assert area([10, None, 5], 10) == f"M0 {HEIGHT}V1h1V{HEIGHT}zM2 {HEIGHT}V20h1V{HEIGHT}z"


def test_small_value_is_seen() -> None:
    """One request that waits is seen beside a million."""
    assert line([1], 1_000_000) == f"M0 {HEIGHT - 1}h1"


def test_nothing_known_is_no_path() -> None:
    """Without a figure there is no line, and a top of 0 divides nothing."""
    assert line([None, None], 10) == ""
    assert area([0], 0) == f"M0 {HEIGHT}V{HEIGHT}h1V{HEIGHT}z"
