#!/usr/bin/env bash
# All checks: lint, types, tests. Makes .venv when it is missing. Arguments go to pytest:
#
#   bash tests/run.sh                  # everything, with one real training run
#   bash tests/run.sh -m 'not e2e'     # the fast ones
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash examples/setup_cpu.sh
bin=.venv/bin
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
"$bin/python" -m pytest "$@"
