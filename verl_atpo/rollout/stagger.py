"""Start times of staggered expansions, in turns of the chains instead of seconds. Pure Python."""

from __future__ import annotations

from collections.abc import Sequence

from verl_atpo.config import ExpansionConfig
from verl_atpo.tree.growth import Rollout


def progress(chains: Sequence[Rollout], expected_turns: float) -> float:
    """Compute the share of the chains' expected turns that has been sampled; a chain that has ended counts as whole.

    Args:
        chains: the initial chains of a tree, running ones too; at least one.
        expected_turns: mean number of turns of a chain.
    """
    shares = [
        1.0 if chain.trajectory is not None else min(1.0, (chain.joined or 0) / expected_turns) for chain in chains
    ]
    return sum(shares) / len(chains)


def expansions_due(passed: float, expansions: int, config: ExpansionConfig) -> int:
    """Count the expansions that should have started: at equal distances from ``first_at`` to ``last_at``.

    Args:
        passed: :func:`progress` of the chains.
        expansions: number of expansions of the tree.
        config: its settings.

    Examples:
        Five expansions start when 20, 30, 40, 50 and 60 % of the chains' expected turns are sampled:

        >>> config = ExpansionConfig(first_at=0.2, last_at=0.6)
        >>> [expansions_due(share, 5, config) for share in (0.19, 0.2, 0.45, 0.6, 1.0)]
        [0, 1, 3, 5, 5]
    """
    step = (config.last_at - config.first_at) / max(1, expansions - 1)
    return sum(config.first_at + step * number <= passed + 1e-9 for number in range(expansions))
