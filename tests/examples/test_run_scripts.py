"""The run scripts: short, complete under verl's real config, and independent of what the environment is full of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import omega_conf_to_dataclass, validate_config

from tests.assets.run_scripts import ROOT, SCRIPTS, main_ppo_arguments
from verl_atpo.startup.checks import check_config
from verl_atpo.startup.verl_config import TREE_MANAGER

PAPER_SMALL = ROOT / "examples" / "paper_small" / "run.sh"
SHORT = 25


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the scripts go before they start anything: files are named from there."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("VERL_PLATFORM", "cpu")


def composed(arguments: list[str]) -> DictConfig:
    """verl's config, past all checks that verl and this package make before Ray starts."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=arguments)
    check_config(config)
    validate_config(config, need_reference_policy(config), need_critic(config))
    omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
    return config


@pytest.mark.parametrize("script", [*SCRIPTS.values(), PAPER_SMALL], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_tasks_script_is_short(script: Path) -> None:
    assert len(script.read_text().splitlines()) < SHORT


def test_these_are_all() -> None:
    found = {*ROOT.glob("examples/*.sh"), *ROOT.glob("examples/*/run.sh")}
    shared = {ROOT / "examples" / "setup_cpu.sh", ROOT / "examples" / "kit" / "run.sh"}
    assert found - shared == {*SCRIPTS.values(), PAPER_SMALL}


@pytest.mark.parametrize("task", SCRIPTS)
def test_a_task_composes_and_its_files_are_there(task: str, tmp_path: Path) -> None:
    config = composed(main_ppo_arguments(task, OUT=str(tmp_path), PREPARED=str(tmp_path), SEED="3"))
    rollout = config.actor_rollout_ref.rollout
    assert rollout.agent.agent_loop_manager_class == TREE_MANAGER
    assert rollout.n == (8 if task == "smollm2" else 12)
    assert config.data.max_prompt_length + config.data.max_response_length <= rollout.max_model_len
    assert (config.data.seed, rollout.seed) == (3, 3)
    assert config.data.train_files == f"{tmp_path}/train.parquet"
    tools = rollout.multi_turn.tool_config_path or rollout.multi_turn.function_tool_path
    assert task == "black_box" or Path(tools).is_file()  # its agents bring their own tools
    assert Path(config.reward.custom_reward_function.path).is_file()
    assert (ROOT / "examples" / task / "prepare.py").is_file()


def test_further_arguments_come_last_and_presets_too(tmp_path: Path) -> None:
    arguments = main_ppo_arguments("hopqa", "trainer.total_training_steps=7", STEPS="3", OUT=str(tmp_path))
    assert composed(arguments).trainer.total_training_steps == 7


def test_variables_that_others_use_reach_nothing(tmp_path: Path) -> None:
    groups = dict.fromkeys(("DATA", "MODEL", "ACTOR", "ROLLOUT", "REWARD", "TRAINER"), "something else")
    assert main_ppo_arguments("hopqa", OUT=str(tmp_path), **groups) == main_ppo_arguments("hopqa", OUT=str(tmp_path))


def test_only_a_run_that_saves_goes_on_without_validating_again(tmp_path: Path) -> None:
    newest = tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt"
    newest.parent.mkdir()
    before = "trainer.val_before_train=True"
    assert before in main_ppo_arguments("smollm2", OUT=str(tmp_path))
    newest.write_text("2")
    assert before not in main_ppo_arguments("smollm2", OUT=str(tmp_path))
    assert before in main_ppo_arguments("hopqa", OUT=str(tmp_path))


@pytest.mark.parametrize("missing", ["QUESTIONS", "CORPUS"])
def test_the_papers_setting_asks_for_its_data(missing: str) -> None:
    given = {name: "a.jsonl" for name in ("QUESTIONS", "CORPUS") if name != missing}
    environment = {"PATH": os.environ["PATH"], **given}
    done = subprocess.run(["bash", PAPER_SMALL], env=environment, capture_output=True, text=True)
    assert done.returncode != 0 and f"{missing}: name a file" in done.stderr
