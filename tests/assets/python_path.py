"""``PYTHONPATH`` of the processes that tests start: the repository, and a ``sitecustomize`` that makes them quick."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
QUICK = Path(__file__).parent / "quick_python"
PYTHON_PATH = f"{ROOT}{os.pathsep}{QUICK}"
QUICK_VARIABLES = {"PYTHONPATH": PYTHON_PATH, "WITHOUT_SKLEARN": "1"}
"""Environment of processes that train; see ``quick_python/sitecustomize.py``."""
