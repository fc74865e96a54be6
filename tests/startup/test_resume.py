"""A run that is started again: the step it goes on from, what has changed since, what Ctrl+C is answered with."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from tests.assets.configs import config_with, refusal
from verl_atpo.report.run_file import RunFile, read_run
from verl_atpo.startup.driver import CheckConfig, write_config
from verl_atpo.startup.driver_end import DriverEnd, running_beside
from verl_atpo.startup.opening import closing_lines, opening_lines, resume_warnings
from verl_atpo.startup.resume import changed_settings, remember_settings, resumed_step, total_steps
from verl_atpo.startup.rules.rule import Run

LR = "actor_rollout_ref.actor.optim.lr"


def saved(folder, step: int) -> None:
    (folder / f"global_step_{step}").mkdir(parents=True)
    (folder / "latest_checkpointed_iteration.txt").write_text(str(step))


def config_of(folder, *settings: str):
    return config_with(f"trainer.default_local_dir={folder}", "trainer.save_freq=2", *settings)


def test_the_step_that_verl_goes_on_from(tmp_path):
    assert resumed_step(config_of(tmp_path)) is None
    saved(tmp_path, 4)
    assert resumed_step(config_of(tmp_path)) == 4
    assert resumed_step(config_of(tmp_path, "trainer.resume_mode=disable")) is None
    path = f"trainer.resume_from_path={tmp_path}/global_step_2"
    assert resumed_step(config_of(tmp_path, "trainer.resume_mode=resume_path", path)) == 2
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("9")  # its folder is gone
    assert resumed_step(config_of(tmp_path)) is None


def test_steps_of_a_run():
    assert total_steps(config_with("trainer.total_training_steps=7")) == 7
    assert total_steps(config_with()) is None
    optim = "actor_rollout_ref.actor.optim.total_training_steps=12"
    assert total_steps(config_with(optim)) == 12
    mode = "trainer.v1.trainer_mode=separate_async"
    assert total_steps(config_with(optim, mode, "trainer.v1.separate_async.parameter_sync_step=4")) == 3


def test_other_settings_than_at_the_first_start_are_named(tmp_path):
    remember_settings(config_of(tmp_path))
    saved(tmp_path, 2)
    again = config_of(tmp_path, f"{LR}=5e-6", "trainer.total_training_steps=9", "algorithm.atpo.dump_dir=trees")
    assert list(changed_settings(config_of(tmp_path))) == []
    assert list(changed_settings(again)) == [f"{LR}=5e-06, it was 1e-06"]
    remember_settings(again)  # the settings of the first start stay
    assert list(changed_settings(again)) == [f"{LR}=5e-06, it was 1e-06"]
    (warning,) = resume_warnings(again, changed_settings(again))
    assert "after step 2" in warning and LR in warning


def test_a_finished_run_says_that_nothing_is_left(tmp_path):
    saved(tmp_path, 4)
    (line,) = resume_warnings(config_of(tmp_path, "trainer.total_training_steps=4"), iter(()))
    assert "holds step 4 of 4" in line and "trainer.resume_mode=disable" in line
    assert not list(resume_warnings(config_of(tmp_path, "trainer.total_training_steps=5"), iter(())))


def test_a_run_opens_with_packing_trees_checkpoints_and_where_it_begins(tmp_path):
    saved(tmp_path, 4)
    config = config_of(tmp_path, "algorithm.atpo.dump_dir=trees", "trainer.total_training_steps=9")
    text = "\n".join(opening_lines(config, Run(config).atpo))
    for words in ("9 steps of 1024 prompts of 12 trajectories", "after step 4", "packed: no", "verl_atpo.view trees"):
        assert words in text
    assert f"every 2 steps to {tmp_path}" in text
    assert closing_lines(config, Run(config).atpo)[1] == "next: python -m verl_atpo.view trees"
    fresh = config_with()
    assert "at step 1" in "\n".join(opening_lines(fresh, Run(fresh).atpo))


@pytest.mark.parametrize("step", [None, 6])
def test_ctrl_c_is_answered_with_where_the_run_goes_on(tmp_path, step):
    if step:
        saved(tmp_path, step)
    end = DriverEnd(config_of(tmp_path), RunFile("a", 1, "here", [], 0.0), tmp_path)
    assert ("continues from step 6" if step else "before the first checkpoint") in end.stopped()
    assert "starts from the beginning" in DriverEnd(config_with(), RunFile("a", 1, "here", [], 0.0), tmp_path).stopped()


def test_how_a_run_ended_is_in_its_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "excepthook", lambda *error: None)
    end = DriverEnd(config_with(), RunFile("a", 1, "here", [], 0.0), tmp_path)
    end.watch()
    assert read_run(tmp_path / "atpo_run.json").ended is None
    sys.excepthook(KeyError, KeyError("x"), None)
    assert read_run(tmp_path / "atpo_run.json").ended == "failed: KeyError"
    sys.excepthook(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert read_run(tmp_path / "atpo_run.json").ended == "stopped" and "Ctrl+C" in capsys.readouterr().err


TERMINATED = """
import os, signal, sys, time
from pathlib import Path
from omegaconf import OmegaConf
from verl_atpo.report.run_file import this_start
from verl_atpo.startup.driver_end import DriverEnd
config = OmegaConf.create({"trainer": {"save_freq": 2, "default_local_dir": sys.argv[1], "resume_mode": "auto"}})
DriverEnd(config, this_start(["run"]), Path(sys.argv[1], "hydra")).watch()
print("ready", flush=True)
time.sleep(120)
"""


def test_sigterm_is_recorded_and_two_runs_do_not_share_a_folder_of_checkpoints(tmp_path):
    saved(tmp_path, 6)
    config = config_of(tmp_path)
    command = [sys.executable, "-c", TERMINATED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        assert f"the run of process {process.pid} saves" in running_beside(config)
        assert "set another folder" in refusal(config)
        process.terminate()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "Stopped before its end. The same command continues from step 6." in said
    assert read_run(tmp_path / "hydra" / "atpo_run.json").ended == "stopped"
    assert running_beside(config) is None


INTERRUPTED = """
import atexit, sys, time
from pathlib import Path
from omegaconf import OmegaConf
from verl_atpo.report.run_file import this_start
from verl_atpo.startup.driver_end import DriverEnd
config = OmegaConf.create({"trainer": {"save_freq": -1, "default_local_dir": sys.argv[1], "resume_mode": "auto"}})
def clean_up():
    print("cleaning up", flush=True)
    time.sleep(float(sys.argv[2]))
    print("cleaned up", flush=True)
atexit.register(clean_up)  # as Ray's, which is imported earlier
DriverEnd(config, this_start(["run"]), Path(sys.argv[1], "hydra")).watch()
print("ready", flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [2, 3])
def test_a_second_signal_does_not_interrupt_the_end_and_a_third_ends_at_once(tmp_path, first, times):
    seconds = "2" if times == 2 else "120"
    command = [sys.executable, "-c", INTERRUPTED, str(tmp_path), seconds]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == "cleaning up\n"
        for _ in range(times - 1):
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        out, said = process.communicate(timeout=60)
    assert ("cleaned up" in out) is (times == 2)
    assert said.count("Once more ends this process at once.") == 1 and "Traceback" not in said
    assert process.returncode == 130 if times == 3 else process.returncode in (1, 130, 143, -2)
    assert read_run(tmp_path / "hydra" / "atpo_run.json").ended == "stopped"


def test_ctrl_c_before_ray_is_answered_in_a_line(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("verl_atpo.startup.driver.apply_rules", interrupted)
    with pytest.raises(SystemExit, match="before Ray started"):
        CheckConfig().on_job_start(config_with())


def test_verls_config_goes_into_a_file(tmp_path, capsys):
    write_config(tmp_path / "run" / "verl_config.txt", {"trainer": {"nnodes": 1}})
    assert (tmp_path / "run" / "verl_config.txt").read_text() == "{'trainer': {'nnodes': 1}}"
    assert len(capsys.readouterr().out.splitlines()) == 1
    (tmp_path / "file").touch()
    write_config(tmp_path / "file" / "verl_config.txt", {"trainer": 1})
    assert capsys.readouterr().out == "{'trainer': 1}\n"
