"""Comparison of the gradients of a model's parameters."""

from __future__ import annotations

import torch

NEGLIGIBLE = 1e-3
"""A gradient smaller than this share of the largest one's norm is compared over that share instead of its own norm.

Such gradients are sums that nearly cancel, so that their own norm is mostly rounding: those of the decays of gated
delta nets are (`tests/packed/test_delta.py`), in rows that nothing has packed as well.
"""


def gradient_error(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    """Largest difference of a parameter's gradient over its norm, see :data:`NEGLIGIBLE`."""
    least = NEGLIGIBLE * max(float(each.norm()) for each in wanted.values())
    return max(float((found[name] - each).norm() / each.norm().clamp(min=least)) for name, each in wanted.items())
