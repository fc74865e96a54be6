"""The check in the driver: nothing passes it by crashing, and it says what a run uses."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf, open_dict

from tests.assets.configs import config_with, refusal
from verl_atpo.startup import driver
from verl_atpo.startup.driver import LONGEST, CheckConfig


@pytest.mark.fault("Start-up", "a check that raises anything", "the run ends before Ray starts")
@pytest.mark.parametrize(
    "error", [AttributeError("'list' object"), KeyError("x"), UnicodeDecodeError("utf-8", b"", 0, 1, "bad")]
)
def test_whatever_goes_wrong_in_a_check_ends_the_run(monkeypatch, error):
    def broken(*arguments):
        raise error

    monkeypatch.setattr(driver, "apply_rules", broken)
    message = refusal(config_with())
    assert type(error).__name__ in message and "test_driver.py" in message


def test_interpolations_that_fail_end_the_run():
    assert "NO_SUCH_VARIABLE" in refusal(config_with("algorithm.atpo.dump_dir=${oc.env:NO_SUCH_VARIABLE}"))


def test_a_long_message_is_cut(monkeypatch):
    monkeypatch.setattr(driver, "apply_rules", lambda run, *rest: run.config["x" * 5000])
    with open_dict(config := config_with()):
        OmegaConf.set_struct(config, True)
    with pytest.raises(SystemExit) as end:
        CheckConfig().on_job_start(config)
    assert len(str(end.value.code)) <= LONGEST


def test_a_config_without_us_passes_unseen(monkeypatch):
    monkeypatch.setattr(driver, "apply_rules", lambda *arguments: 1 / 0)
    with initialize_config_module("verl.trainer.config", version_base=None):
        CheckConfig().on_job_start(compose("ppo_trainer"))


def test_the_banner_says_what_a_run_uses(caplog):
    with caplog.at_level(logging.INFO, "verl_atpo"):
        CheckConfig().on_job_start(config_with())
    for words in (
        "estimator: atpo",
        "loss: atpo, seq-mean-token-mean",
        "importance ratio between 1 - 0.003 and 1 + 0.004",
        "M=6, K=3, L=2: 12 leaves, turns selected by noise",
        "contexts=merged, baseline_weights=False, scheme=shrunk",
        "agent loop: tool_agent",
        "SearchTool (stateless in expansions)",
    ):
        assert words in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "verl_atpo"):
        CheckConfig().on_job_start(config_with(preset="chain"))
    assert "trees: none: 1 recorded chains per prompt" in caplog.text and "tools: " in caplog.text


def test_dr_grpos_switch_is_obeyed_and_said(caplog):
    with caplog.at_level(logging.INFO, "verl_atpo"):
        CheckConfig().on_job_start(config_with("algorithm.norm_adv_by_std_in_grpo=false"))
    assert "normalize=center" in caplog.text


def test_bypass_mode_in_low_precision_is_warned_of_with_numbers(caplog):
    bypass = "algorithm.rollout_correction.bypass_mode=true"
    CheckConfig().on_job_start(config_with(bypass, "actor_rollout_ref.rollout.dtype=float32"))
    assert "bypass_mode" not in caplog.text
    CheckConfig().on_job_start(config_with(bypass))
    assert "bypass_mode=True cannot work: with actor_rollout_ref.rollout.dtype=bfloat16" in caplog.text
    assert "61% of the turns" in caplog.text


def test_credit_that_an_estimator_of_verls_does_not_read_is_warned_of(caplog):
    """These configs know of no preset, as if their settings were made by hand."""
    CheckConfig().on_job_start(config_with())
    CheckConfig().on_job_start(config_with("algorithm.adv_estimator=grpo", preset="paper"))
    assert "changes nothing" not in caplog.text
    CheckConfig().on_job_start(config_with("algorithm.adv_estimator=grpo"))
    said = "algorithm.atpo.credit with contexts=merged, scheme=shrunk changes nothing"
    assert "algorithm.adv_estimator=grpo" in caplog.text and said in caplog.text


LOGGED = """
import logging
import vllm
import verl
for handler in logging.root.handlers:
    handler.setLevel(logging.ERROR)
logging.root.setLevel(logging.ERROR)
logging.getLogger("verl_atpo.rollout.worker").warning("growing again")
"""


def test_warnings_arrive_whatever_vllm_does_to_the_root_logger():
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", LOGGED], capture_output=True, text=True, timeout=300)
    assert run.stderr.count("WARNING verl_atpo.rollout.worker: growing again") == 1, run.stderr[-2000:]


@pytest.mark.parametrize(
    "settings",
    [
        ["+atpo=tree", "actor_rollout_ref.rollout.temperature=hot"],
        ["algorithm.adv_estimator=atpo", "+algorithm.atpo.x=1"],
    ],
    ids=["preset", "no preset"],
)
def test_before_ray_starts_with_and_without_a_preset(tmp_path, settings):
    command = [sys.executable, "-W", "ignore", "-m", "verl.trainer.main_ppo", f"hydra.run.dir={tmp_path}", *settings]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode != 0
    assert "verl_atpo: " in run.stderr and "ray init kwargs" not in run.stdout + run.stderr


def test_the_check_is_imported_without_verl():
    """verl imports the plugin, which imports the check: the other way round there would be two of each."""
    code = "import sys, verl_atpo.startup.driver, verl_atpo.check; assert 'verl' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


RECORDS_NOTHING = {
    "actor_rollout_ref.rollout.agent.agent_loop_manager_class=null": "verl's own sampler records nothing to dump; set",
    "reward.reward_model.enable=true": "scores only after sampling, after the trajectories",
}


@pytest.mark.parametrize(("override", "words"), RECORDS_NOTHING.items())
def test_a_dump_where_nothing_is_recorded_is_warned_of(caplog, override, words):
    CheckConfig().on_job_start(config_with("algorithm.atpo.dump_dir=trees", override, preset="chain"))
    assert "algorithm.atpo.dump_dir=trees cannot work: " in caplog.text and words in caplog.text


@pytest.mark.parametrize("preset", ["tree", "chain"])
def test_a_dump_of_trees_and_of_chains_needs_no_warning(caplog, preset):
    CheckConfig().on_job_start(config_with("algorithm.atpo.dump_dir=trees", preset=preset))
    assert "dump_dir" not in "".join(record.message for record in caplog.records if record.levelname == "WARNING")


def test_settings_of_expansions_change_nothing_for_chains(caplog):
    CheckConfig().on_job_start(config_with("algorithm.atpo.expansion.initial_chains=12", preset="chain"))
    assert "expansion with initial_chains changes nothing" in caplog.text and "rollout.n=" in caplog.text
