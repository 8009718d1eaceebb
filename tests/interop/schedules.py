"""When masks change and by how much: the original's formulas in its float32 (reference 2.2, 2.9, 4.3)."""

import math
import re

import numpy as np

F = np.float32


def is_due(step, last, begin, end, frequency):
    """Whether masks are updated at global step `step`, after an update at `last`; a negative `end` is none."""
    return step >= begin and (step <= end or end < 0) and last + frequency <= step


def power(base, exponent):
    """float32 power; computed in double, since NumPy's own differs from machine to machine."""
    return F(math.pow(float(base), exponent))


def scaled_power(scale, base, exponent):
    """`scale * base ** exponent`; the original's session multiplies cubes in this order."""
    if exponent == 3:
        return scale * (base * base) * base
    return scale * power(base, exponent)


def drop_fraction(step, begin, end, initial, anneal):
    """Share of the connections that an update at `step` replaces."""
    if anneal == "constant":
        return F(initial)
    span = F(end - begin)
    if anneal == "cosine":
        angle = min(F(step), span) * (F(math.pi) * (F(1) / span))
        return F(initial) * (F(0.5) * (F(1) + F(math.cos(angle))))
    exponent = re.fullmatch(r"exponential(?:_([0-9.]+))?", anneal)
    left = F(1) - F(step - begin) * (F(1) / span)
    return scaled_power(F(initial), left, float(exponent[1] or 1))


def pruning_sparsity(step, begin, end, target, initial=0.0, exponent=3.0):
    """Sparsity that gradual pruning asks for at `step`: from `initial` to `target`, reached at `end`."""
    done = min(F(1), max(F(0), F(step - begin) * (F(1) / F(end - begin))))
    return scaled_power(F(initial - target), F(1) - done, exponent) + F(target)


def learning_rate(step, base, boundaries, factors):
    """The boundary itself still has the old value."""
    passed = sum(step > boundary for boundary in boundaries)
    return F(base * ([1.0] + factors)[passed])
