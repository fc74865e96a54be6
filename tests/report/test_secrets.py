"""Secrets in commands, settings and data rows are masked wherever they are written down, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from verl_atpo.report.plain_json import plain
from verl_atpo.report.run_file import find_run, this_start
from verl_atpo.report.secrets import MASK, is_secret, masked, masked_command, masked_text
from verl_atpo.startup.driver import write_config
from verl_atpo.startup.resume import flat

SECRET = [
    "api_key",
    "apiKey",
    "API-KEY",
    "judge.api_key",
    "reward.custom_reward_function.reward_kwargs.api_key",
    "OPENAI_API_KEY",
    "ray_kwargs.ray_init.runtime_env.env_vars.WANDB_API_KEY",
    "HF_TOKEN",
    "hf_token",
    "token",
    "auth_token",
    "bearer",
    "password",
    "db_password",
    "PGPASSWORD",
    "passphrase",
    "secret",
    "client_secret",
    "AWS_SECRET_ACCESS_KEY",
    "private_key",
    "AWS_SESSION_TOKEN",
    "credentials",
    "Authorization",
    "cookie",
    "GITHUB_PAT",
]
PUBLIC = [
    "data.prompt_key",
    "data.image_key",
    "key",
    "keys",
    "max_tokens",
    "token_ids",
    "tokenizer",
    "pad_token",
    "eos_token",
    "tokens",
    "response_tokens",
    "ppo_max_token_len_per_gpu",
    "secretary",
    "monkey",
    "path",
    "temperature",
    "keyword",
    "actor_rollout_ref.actor.loss_agg_mode",
    "PATH",
    "multi_turn.tokenization_sanity_check_mode",
    "last_token",
    "compass",
]


@pytest.mark.parametrize("name", SECRET)
def test_names_of_secrets(name: str) -> None:
    assert is_secret(name) and is_secret(f"extra.{name}")


@pytest.mark.parametrize("name", PUBLIC)
def test_other_names(name: str) -> None:
    assert not is_secret(name)


def test_no_setting_of_verl_is_masked() -> None:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=["+atpo=tree", "+train=packed"])
    settings = flat(config)
    assert len(settings) > 300 and not [name for name, value in settings.items() if value == MASK]


COMMANDS = {
    "+judge.api_key=sk-1": f"+judge.api_key={MASK}",
    "++ray_init.runtime_env.env_vars.HF_TOKEN='sk-1'": f"++ray_init.runtime_env.env_vars.HF_TOKEN={MASK}",
    "+judge={api_key: sk-1, model: m}": f"+judge={{api_key: {MASK}, model: m}}",
    "+env={OPENAI_API_KEY:'sk-1',A:b}": f"+env={{OPENAI_API_KEY:{MASK},A:b}}",
    '+env={"password": "sk-1"}': f'+env={{"password": {MASK}}}',
    "+url=http://me:sk-1@host:80/path": f"+url=http://me:{MASK}@host:80/path",
    "--token=sk-1": f"--token={MASK}",
    "data.prompt_key=question": "data.prompt_key=question",
    "+url=http://host:80/path@v1": "+url=http://host:80/path@v1",
    "trainer.logger=[console,wandb]": "trainer.logger=[console,wandb]",
}


@pytest.mark.parametrize(("argument", "shown"), COMMANDS.items())
def test_a_command_is_written_down_without_its_secrets(argument: str, shown: str) -> None:
    assert masked_command(["main_ppo", argument, "a=b"]) == ["main_ppo", shown, "a=b"]


def test_a_value_after_an_option_is_masked() -> None:
    assert masked_command(["--token", "sk-1", "--verbose", "--api-key", "--x"]) == [
        "--token", MASK, "--verbose", "--api-key", "--x",
    ]  # fmt: skip


def test_the_files_of_a_run_hold_no_secret(tmp_path: Path) -> None:
    this_start(["main_ppo", "+judge.api_key=sk-1", "a=b"]).write(tmp_path)
    write_config(tmp_path / "config.txt", {"judge": {"api_key": "sk-1", "model": "m"}, "envs": [{"HF_TOKEN": "sk-1"}]})
    run = find_run(tmp_path)
    assert run is not None and list(run.command) == ["main_ppo", f"+judge.api_key={MASK}", "a=b"]
    for file in tmp_path.iterdir():
        assert "sk-1" not in file.read_text() and MASK in file.read_text()
    assert "'model': 'm'" in (tmp_path / "config.txt").read_text()


def test_a_data_row_is_dumped_without_its_secrets() -> None:
    shown = plain({"shell": {"create_kwargs": {"api_key": "sk-1", "size": 3, "token": None}}, "index": 7})
    assert shown == {"shell": {"create_kwargs": {"api_key": MASK, "size": 3, "token": None}}, "index": 7}
    assert plain(shown) == shown
    shown = plain({"judge": "http://me:pw@host/v1", "mails": ["a@b"]})
    assert shown == {"judge": f"http://me:{MASK}@host/v1", "mails": ["a@b"]} and plain(shown) == shown


def test_values_that_are_no_secrets_stay_as_they_are() -> None:
    value = {"a": [1, {"b": None, "api_key": ""}], "c": 2.5}
    assert masked(value) == value and masked_text("max_tokens=5, pad_token: x") == "max_tokens=5, pad_token: x"
