"""Noise of a gradient per sampled token with and without an expansion. Pure Python.

Compare two ways to spend the same tokens on a prompt: M chains each of which is expanded once after k turns, and more
chains. A chain samples the share s of its tokens before the context, an expansion the other 1 - s a second time, so the
tree costs as much as m = M (2 - s) chains. A turn's noise is the variance of its advantage, which trains the tokens of
its chain in proportion to s and 1 - s. Of the outcome's variance, 1, the share U is undecided in the context, and n of
the M chains' turns were sampled there.

- Turns before it: two outcomes that share k turns have a mean of variance v = 1 - U / 2, and the other chains are
  a baseline with the variance v / (M - 1). Without the expansion both have U = 0 and m instead of M.
- Turns after it: the variance of the outcome is U, that of the baseline B. The other n - 1 turns estimate the context's
  value with variance U / (n - 1), the prompt's baseline with 1 - U plus its own variance b, and the two together with
  B(n, b) = 1 / ((n - 1) / U + 1 / (1 - U + b)). In the tree there is one more turn, and two share the chain's weight,
  which halves their noise.

So noise times tokens changes by the factor

    (s v M / (M - 1) + (1 - s) / 2 (U + B(n + 1, v / (M - 1)))) (2 - s)
    -------------------------------------------------------------------
      s m / (m - 1) + (1 - s) (U + B(n, 1 / (m - 1)))

At the prompt (s = 0, U = 1) an expansion is a fresh chain.
"""

from __future__ import annotations


def relative_noise(undecided: float, spent: float, sampled: int, chains: int) -> float:
    """Compute noise times tokens of chains with one expansion in such a context, relative to as many tokens of chains.

    Args:
        undecided: U, share of the outcome's variance that is undecided in the context, 0 to 1.
        spent: s, share of a chain's sampled tokens before the context, 0 to 1.
        sampled: n, turns sampled in the context so far; at least 1.
        chains: M, at least 2.

    Examples:
        Half of the variance is decided when half of the tokens are sampled, in one of six chains that share nothing:

        >>> round(relative_noise(0.5, 0.5, 1, 6), 3)
        0.861
    """
    many = chains * (2.0 - spent)
    variance = 1.0 - undecided / 2
    before = spent * variance * chains / (chains - 1)
    after = (1.0 - spent) / 2 * (undecided + _baseline(undecided, sampled + 1, variance / (chains - 1)))
    without = spent * many / (many - 1)
    without += (1.0 - spent) * (undecided + _baseline(undecided, sampled, 1.0 / (many - 1)))
    return (before + after) * (2.0 - spent) / without


def _baseline(undecided: float, sampled: int, of_prompt: float) -> float:
    """Compute B(n, b), the variance of the baseline of a turn in a context with n - 1 other turns."""
    from_prompt = 1.0 - undecided + of_prompt
    if sampled == 1:
        return from_prompt
    return undecided * from_prompt / ((sampled - 1) * from_prompt + undecided)
