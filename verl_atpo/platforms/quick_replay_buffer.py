"""verl's replay buffer with a short poll interval: on a small model, verl's 2 s between polls is most of a step.

verl builds its buffer with the default interval and has no setting for it, but it takes a sampler class from
``trainer.v1.sampler.custom_sampler`` (the preset ``QUICK_SAMPLER_PRESET`` in ``cpu_preset.py`` names this one).
"""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

SYNC = "sync"


class QuickReplayBuffer(ReplayBuffer):
    """``ReplayBuffer`` of verl's synchronous trainer, polling every ``sampler_kwargs.poll_interval`` seconds.

    verl hands a custom sampler neither its group filter nor its refill switch, so both come through
    ``sampler_kwargs``: the switch is honoured, the filter is refused rather than dropped in silence.
    """

    def __init__(self, *, trainer_mode: str, sampler_kwargs: Any, **kwargs: Any) -> None:
        """Build verl's buffer.

        Args:
            trainer_mode: verl's trainer mode, ``sync`` only.
            sampler_kwargs: ``poll_interval`` (seconds, > 0), ``sync_refill_failed_groups`` (bool), ``filter_groups``
                (verl's ``algorithm.filter_groups`` or None).
            **kwargs: passed on to verl's ``ReplayBuffer``.

        Raises:
            ValueError: another trainer mode, an enabled group filter, or an interval that is not positive.
        """
        if trainer_mode != SYNC:
            raise _refusal(f"trainer.v1.trainer_mode={trainer_mode!r}", f"it serves the mode {SYNC!r} only")
        if (sampler_kwargs.get("filter_groups") or {}).get("enable", False):
            raise _refusal("algorithm.filter_groups.enable=True", "it does not filter groups")
        poll_interval = float(sampler_kwargs.poll_interval)
        if poll_interval <= 0:
            raise _refusal(f"sampler_kwargs.poll_interval={poll_interval}", "expected seconds > 0")
        super().__init__(
            trainer_mode=trainer_mode,
            sampler_kwargs=sampler_kwargs,
            poll_interval=poll_interval,
            sync_refill_failed_groups=bool(sampler_kwargs.get("sync_refill_failed_groups", False)),
            gen_batch_size=1,  # prompts of one refill, which verl wants to be single
            **kwargs,
        )


def _refusal(got: str, why: str) -> ValueError:
    return ValueError(
        f"QuickReplayBuffer got {got}: {why}; remedy: trainer.v1.sampler.custom_sampler.path=null (verl's own buffer)"
    )
