"""Summary of a run before its first step and at its end: size, packing, trees, checkpoints, next command."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from verl_atpo.config import AtpoConfig
from verl_atpo.packed.checks import is_packed
from verl_atpo.startup.resume import resumed_step, saves_checkpoints, total_steps
from verl_atpo.startup.verl_config import CHECKPOINTS, ROLLOUT, get


def opening_lines(config: DictConfig, atpo: AtpoConfig) -> list[str]:
    """Format the summary before the first step."""
    total, resumed = total_steps(config), resumed_step(config)
    rows = f"{get(config, 'data.train_batch_size')} prompts of {get(config, f'{ROLLOUT}.n')} trajectories"
    steps = "steps" if total is None else f"{total} steps"
    return [
        f"about to train: {steps} of {rows}",
        f"  begins: {'at step 1' if resumed is None else f'after step {resumed}, from its checkpoint'}",
        f"  packed: {'yes' if is_packed(config) else 'no; +train=packed trains every distinct token once'}",
        f"  trees: {_trees(atpo)}",
        f"  checkpoints: {_checkpoints(config)}",
    ]


def closing_lines(config: DictConfig, atpo: AtpoConfig) -> list[str]:
    """Format the places of a run's results and the next command."""
    found = []
    if saves_checkpoints(config):
        found.append(f"checkpoints in {get(config, CHECKPOINTS)}")
    if atpo.dump_dir:
        found.append(f"trees in {atpo.dump_dir}")
    return [f"results: {', '.join(found) or 'in the log only'}", f"next: {next_command(atpo)}"]


def next_command(atpo: AtpoConfig) -> str:
    """Return the command that shows the trees, or the setting that makes it possible."""
    if atpo.dump_dir:
        return f"python -m verl_atpo.view {atpo.dump_dir}"
    return "set algorithm.atpo.dump_dir to see trees of the next run in python -m verl_atpo.view"


def _trees(atpo: AtpoConfig) -> str:
    if not atpo.dump_dir:
        return "not dumped (algorithm.atpo.dump_dir)"
    every = "every step" if atpo.dump_every == 1 else f"every {atpo.dump_every} steps"
    return f"dumped {every}; see them with {next_command(atpo)}"


def _checkpoints(config: DictConfig) -> str:
    if not saves_checkpoints(config):
        return "none (trainer.save_freq=-1), a stopped run starts from the beginning"
    every = get(config, "trainer.save_freq")
    return f"every {every} steps to {get(config, CHECKPOINTS)}; the same command continues from the last one"


def resume_warnings(config: DictConfig, changed: Iterator[str]) -> Iterator[str]:
    """Return warnings for a resumed run: nothing left to train, or settings that differ from the first start."""
    resumed, total = resumed_step(config), total_steps(config)
    if resumed is None:
        return
    if total is not None and resumed >= total and not get(config, "trainer.val_only"):
        yield (
            f"{CHECKPOINTS}={get(config, CHECKPOINTS)} holds step {resumed} of {total}: nothing is left to train. "
            "Raise trainer.total_training_steps, set another folder, or trainer.resume_mode=disable to start over."
        )
    differences = list(changed)
    if differences:
        changes = "; ".join(differences)
        yield f"The run continues after step {resumed} with other settings than at its first start: {changes}"
