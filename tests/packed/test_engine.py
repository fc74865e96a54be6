"""The packed engine against verl's own on the same rows: equal in all that a trainer sees, on one rank and on two."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.assets.engine_cases import CASES
from tests.assets.python_path import PYTHON_PATH, ROOT

TOLERANCE = 1e-5


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def differences(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("engines")
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1", "PYTHONPATH": PYTHON_PATH}
    command = [sys.executable, "-W", "ignore", "-m", "tests.assets.engine_cases", str(folder), str(request.param)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-5000:]
    return json.loads((folder / "differences.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_equal_to_verls_engine(differences, case):
    found = differences[case.name]
    trained = set() if case.reference else {"loss", "grad"}
    assert found.keys() == {"log_probs", "entropy", "parameter"} | trained
    assert max(found.values()) < TOLERANCE, found
