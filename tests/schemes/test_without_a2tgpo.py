"""With the folder of one scheme deleted, the rest imports, runs and passes its tests: on a copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LEFT_OUT = (
    ".git",
    ".venv*",
    ".hypothesis",
    "build",
    "__pycache__",
    ".mypy_cache",
    ".ruff_cache",
    "results",
    "*.egg-info",
)
TESTS = (
    "golden",
    "test_config.py",
    "test_structure.py",
    "method/test_estimator.py",
    "method/test_scheme.py",
    "schemes/test_returns.py",
    "tree/test_contexts.py",
    "startup/test_presets.py",
    "startup/test_bad_configs.py",
    "rollout/test_rows.py",
    "rollout/test_worker.py",
    "report/test_dump.py",
)
IMPORT_ALL = """
import importlib, pkgutil, verl_atpo
names = [each.name for each in pkgutil.walk_packages(verl_atpo.__path__, "verl_atpo.")]
optional = {"nicegui", "resvg_py", "jinja2", "faiss", "bm25s"}
for name in names:
    if not name.endswith(("__main__", "platforms.cpu", "sitecustomize")):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            assert error.name.partition(".")[0] in optional, error
from verl_atpo.method.scheme import known_schemes, own_estimators
assert "a2tgpo" not in known_schemes() and own_estimators() == ["atpo"] and len(names) > 150
"""


def test_the_rest_stands_without_a2tgpo(tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(*LEFT_OUT), symlinks=True)
    for folder in ("verl_atpo", "tests"):
        assert (copy / folder / "schemes" / "a2tgpo").is_dir()
        shutil.rmtree(copy / folder / "schemes" / "a2tgpo")
    environment = {**os.environ, "PYTHONPATH": str(copy)}

    def run(*command: str) -> None:
        done = subprocess.run(
            [sys.executable, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

    # One process for both: it takes longest to load verl. A few random examples: the full number is drawn elsewhere.
    options = ["-q", "-x", "-p", "no:cacheprovider", "--hypothesis-profile=few"]
    arguments = [*options, *(f"tests/{name}" for name in TESTS)]
    run("-W", "ignore", "-c", f"{IMPORT_ALL}\nimport pytest, sys\nsys.exit(pytest.main({arguments!r}))")
