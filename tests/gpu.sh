#!/usr/bin/env bash
# What needs a CUDA device: tests against the CPU's oracles, three steps of main_ppo with vLLM, benchmarks with their
# result files. At most 8 minutes, no internet. Without a device the tests' CPU half runs, and the rest says why not.
#
#   bash tests/gpu.sh                                # with PYTHON, .venv's, or python3, which has verl and vLLM
#   WHEELS=FOLDER PYTHON=python3 bash tests/gpu.sh   # first into .venv-gpu: this package, its extras gpu and test, from a
#                                                    # folder of wheels, setuptools among them
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
LIMIT_S=480

if [[ -n ${WHEELS:-} ]]; then
    "${PYTHON:-python3}" -m venv .venv-gpu
    PYTHON=.venv-gpu/bin/python
    "$PYTHON" -m pip install --quiet --no-index --find-links "$WHEELS" --editable '.[gpu,test]'
elif [[ -z ${PYTHON:-} ]]; then
    PYTHON=$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)
fi
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD
unset VERL_PLATFORM
SECONDS=0

within() { # what is left of the time for a command
    timeout $((LIMIT_S - SECONDS)) "$@"
}

within "$PYTHON" -m pytest tests/gpu -rs --durations=5 "$@"
if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    within "$PYTHON" -m benchmarks.transfers
    within "$PYTHON" -m benchmarks.loss --device cuda --repeats 5 --out benchmarks/results/loss_cuda.json
    within "$PYTHON" -m benchmarks.packed --models 10M 135M --repeats 2 --out benchmarks/results/packed_cuda.json
else
    echo "No CUDA device: no benchmarks."
fi
echo "tests/gpu.sh took $SECONDS s"
