#!/usr/bin/env bash
# The fast tests of the method, the schemes, the trees and packed training with other versions than those of .venv.
#
#   bash tests/lanes.sh pins   # Python 3.12 and what verl 0.9.1 pins for GPUs: torch 2.11, transformers 5.9
#   bash tests/lanes.sh next   # Python 3.11 and what verl moves to: torch 2.13, transformers 5.12
#
# PYTHON=python3.12 names the interpreter, FOLDER the virtual environments (default: outputs/lanes). A lane that has none
# installs it, which downloads up to 3 GB: PyPI's torch brings CUDA libraries, unless pip is pointed to CPU builds.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lane=${1:?"name a lane: pins or next"}
case $lane in
    pins) PYTHON=${PYTHON:-python3.12} VERSIONS=(torch==2.11.0 transformers==5.9.0) ;;
    next) PYTHON=${PYTHON:-python3.11} VERSIONS=(torch==2.13.0 transformers==5.12.1) ;;
    *) echo "unknown lane: $lane (pins or next)" >&2 && exit 2 ;;
esac
TESTS=(tests/tree tests/method tests/schemes tests/packed/test_trie.py tests/packed/test_attention.py
    tests/packed/test_levels.py tests/packed/test_delta.py tests/packed/test_head.py tests/packed/test_families.py)
venv=${FOLDER:-outputs/lanes}/$lane
python=$venv/bin/python
tested() { "$PYTHON" -c "import json; print(json.load(open('verl_atpo/tested_versions.json'))$1)"; }

if ! "$python" -c 'import verl, pytest' 2>/dev/null; then
    "$PYTHON" -m venv "$venv"
    pip=("$python" -m pip install --quiet --disable-pip-version-check)
    "${pip[@]}" "${VERSIONS[0]}" "verl==$(tested '["verl"]["trained with"][-1]')" \
        "TransferQueue==$(tested '["transfer-queue"]')" "tensordict==$(tested '["cpu"]["tensordict"]')" \
        "ray[default]==$(tested '["cpu"]["ray"]')" cachetools mathruler msgspec nvtx pyzmq qwen_vl_utils torchdata \
        aiohttp 'async-lru>=2' 'async-timeout>=4' psutil 'pydantic>=2.7' tabulate 'tenacity>=9.1' \
        'aiotools>=1.7' hypothesis pytest pytest-asyncio
    "${pip[@]}" --no-deps "${VERSIONS[1]}" # verl 0.9.1 does not allow the next one yet
fi
"$python" -c 'import sys, torch, transformers; print(sys.version.split()[0], torch.__version__, transformers.__version__)'
export PYTHONPATH=$PWD OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
exec "$python" -m pytest -p no:cacheprovider "${TESTS[@]}" "${@:2}"
