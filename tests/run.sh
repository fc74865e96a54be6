#!/usr/bin/env bash
# All checks: lint, types, tests, two at a time. Makes .venv when it is missing. Arguments go to pytest:
#
#   bash tests/run.sh                  # everything: the fast tests, then the real training runs
#   bash tests/run.sh -m 'not e2e'     # the fast ones
#   bash tests/run.sh -m e2e -n 0      # the real training runs, one after the other
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash examples/setup_cpu.sh
bin=.venv/bin
"$bin/python" -m compileall -q verl_atpo # once, also where PYTHONDONTWRITEBYTECODE is set: hundreds of processes load it
"$bin/ruff" check .
"$bin/ruff" format --check .
"$bin/mypy"
# A file's tests share what is set up for them. Files begin in the order of tests/conftest.py.
tests=("$bin/python" -m pytest --durations=30 --numprocesses=2 --dist=loadfile --no-loadscope-reorder)
if (($#)); then
    exec "${tests[@]}" "$@"
fi
failed=0
"${tests[@]}" -m 'not e2e' || failed=1
"${tests[@]}" -m e2e tests/e2e || failed=1 # one starts while another trains
exit $failed
