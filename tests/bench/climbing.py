"""The highest of many steps that holds, found with few tries from where it was found last."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["climb"]


def climb(holds: Callable[[int], bool], begin: int, steps: int) -> int:
    """Answers the highest step that holds, of 0 to `steps` - 1, or -1 if none does.

    From `begin` on up or down, twice by one and then by strides that double, then by halves of what is left
    in between. So two tries do where it is where it was, and a begin that is far off costs a few more.
    """
    held, failed = -1, steps
    step, stride, tried = min(begin, steps - 1), 1, 0
    while held + 1 < failed:
        if holds(step):
            held = step
        else:
            failed = step
        if failed == steps:
            step = min(held + stride, steps - 1)
        elif held < 0:
            step = max(failed - stride, 0)
        else:
            step = (held + failed) // 2
        tried += 1
        stride *= 2 if tried > 1 else 1
    return held
