"""Figures as people read them. Pure."""

import datetime as dt

NONE = "\N{EN DASH}"
"""Stands where there is no figure."""

_BYTES = ("B", "KiB", "MiB", "GiB", "TiB")


def count(number: float) -> str:
    """A whole number, with commas."""
    return f"{number:,.0f}"


def rate(number: float | None) -> str:
    """Entries a second: two digits that matter, or a dash if unknown."""
    if number is None:
        return NONE
    if number == 0 or number >= 9.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 0.95 else f"{number:.2g}"


def duration(seconds: float) -> str:
    """A time span in its two largest units."""
    seconds = max(seconds, 0.0)
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole < 600 and whole % 60 else f"{whole // 60} min"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    days, rest = divmod(whole, 86_400)
    return f"{days} d {rest // 3600} h" if days < 10 else f"{days:,} days"


def size(number: int) -> str:
    """A number of bytes."""
    value = float(number)
    for unit in _BYTES[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} {_BYTES[-1]}"


def moment(at: float) -> str:
    """A time of this day or another one, in UTC."""
    try:
        return dt.datetime.fromtimestamp(at, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return NONE


def clock(at: float) -> str:
    """The time of the day, in UTC."""
    return moment(at)[11:]


def listed(names: list[str], most: int = 3) -> str:
    """The first few names, and how many more there are."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def number_of(number: int, noun: str) -> str:
    """A number of things, as in ``3 workers``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
