"""Spans of time as they are written in sweep files and on the command line."""

import re

from tiles.intake import shown

__all__ = ["parse_time_limit"]

MAX_TIME_LIMIT_S = 30 * 24 * 3600
_TIME_LIMIT = re.compile(r"([1-9][0-9]{0,8})(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def parse_time_limit(text: str) -> float:
    """Read ``90s``, ``30m`` or ``2h`` into seconds.

    Raises:
        ValueError: written otherwise, or longer than 30 days.
    """
    match = _TIME_LIMIT.fullmatch(text) if isinstance(text, str) else None
    if not match:
        raise ValueError(f"a time limit is written 90s, 30m or 2h, got {shown(text)}: correct it")
    seconds = int(match[1]) * _SECONDS[match[2]]
    if seconds > MAX_TIME_LIMIT_S:
        raise ValueError(f"a time limit is at most 720h, got {shown(text)}: shorten it")
    return float(seconds)
