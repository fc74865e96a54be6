"""Every ordinary mistake is noticed before Ray starts, by its setting's name; the project without one would train."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

from benchmarks.mistakes.__main__ import command, try_out
from benchmarks.mistakes.project import make
from benchmarks.mistakes.table import COMMAND_LINE, MISTAKES, Mistake
from verl_atpo.check import findings
from verl_atpo.startup import driver
from verl_atpo.startup.rules.rule import Run

GOOD = Mistake("none", "")


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("NETRC", str(tmp_path / "no.netrc"))
    for key in ("WANDB_API_KEY", "WANDB_MODE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setattr(driver, "rehearses", lambda run: True)
    monkeypatch.setattr("verl_atpo.check.rehearses", lambda run: True)


def composed(arguments: list[str]) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose("ppo_trainer", overrides=arguments, return_hydra_config=True)


def found(mistake: Mistake, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, str]]:
    for module in ("mistakes_guess", "mistakes_loop"):
        monkeypatch.delitem(__import__("sys").modules, module, raising=False)
    monkeypatch.syspath_prepend(folder)
    for key, value in mistake.environment.items():
        monkeypatch.setenv(key, value)
    arguments = command(mistake, folder, make(folder))
    mistake.change(folder)
    return list(findings(Run(composed(arguments))))


def test_the_project_would_train(tmp_path, monkeypatch):
    assert found(GOOD, tmp_path, monkeypatch) == []


def test_the_table_is_long_enough():
    assert len(MISTAKES) >= 40 and len({mistake.what for mistake in MISTAKES}) == len(MISTAKES)


@pytest.mark.fault("Start-up", "ordinary mistakes of a first run", "refused before Ray starts, the setting named")
@pytest.mark.parametrize("mistake", [each for each in MISTAKES if each not in COMMAND_LINE], ids=lambda each: each.what)
def test_a_mistake_is_noticed_by_name(mistake, tmp_path, monkeypatch):
    lines = found(mistake, tmp_path, monkeypatch)
    assert lines, "nothing was noticed"
    is_warning, message = lines[0]
    assert is_warning is mistake.warns and mistake.names in message, lines
    assert len(message) < 1500


@pytest.mark.parametrize("mistake", COMMAND_LINE[1:3], ids=lambda each: each.what)
def test_a_mistake_on_the_command_line_is_noticed_by_name(mistake, tmp_path):
    noticed = try_out(mistake, tmp_path / "project")
    assert noticed.code == 1 and mistake.names in noticed.line
