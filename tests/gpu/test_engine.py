"""The packed engine on an accelerator, in float32 and bfloat16, against verl's own in float32 on the CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.assets.device_engines import CASES
from tests.assets.devices import CUDA, each_device
from tests.assets.engine_cases import differences
from tests.assets.python_path import PYTHON_PATH, ROOT

TOLERANCES = {"cpu": 1e-5, "cuda": 1e-3}
"""In float32, of verl's norm. An accelerator adds up in another order."""
STEPS = ("log_probs", "entropy", "loss", "grad")
"""What is compared: a step of the optimizer divides by a gradient's size, so that rounding comes out as large."""
each_case = pytest.mark.parametrize("case", [case.name for case in CASES])


def made(folder: Path, device: str, *engines: str) -> None:
    platform = {"VERL_PLATFORM": "cpu"} if device == "cpu" else {}
    others = {name: value for name, value in os.environ.items() if name != "VERL_PLATFORM"}
    environment = {**others, **platform, "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHON_PATH}
    command = [sys.executable, "-W", "ignore", "-m", "tests.assets.device_engines", str(folder), device, *engines]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-5000:]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    made(folder, "cpu", "verl-fp32", "verl-bf16", "packed-fp32", "packed-bf16")
    if CUDA:
        made(folder, "cuda", "packed-fp32", "packed-bf16")
    return folder


def errors(folder: Path, name: str, case: str) -> dict[str, float]:
    """How far an engine is from verl's in float32 on the CPU."""
    right, found = (torch.load(folder / f"{each}.pt")[case] for each in ("cpu-verl-fp32", name))
    apart = differences(right, found)
    return {step: apart[step] for step in STEPS}


@each_device
@each_case
def test_float32_is_verls_engine(engines, device, case):
    found = errors(engines, f"{device}-packed-fp32", case)
    assert 0 < max(found.values()) < TOLERANCES[device], found


@each_device
@each_case
def test_bfloat16_rounds_no_more_than_verls_engine_does(engines, device, case):
    found, own = (errors(engines, name, case) for name in (f"{device}-packed-bf16", "cpu-verl-bf16"))
    assert all(0 < found[step] < 2 * own[step] + 1e-3 for step in STEPS), (found, own)
    assert max(own.values()) < 0.1
