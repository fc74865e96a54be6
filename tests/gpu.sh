#!/usr/bin/env bash
# What needs a CUDA device, in three stages with a verdict each: PASSED, FAILED, or NOT PROVEN for what was skipped.
#
#   0  torch and transformers: the packs' kernels against float64, timed against rows            2 minutes
#   1  and verl, without vLLM: the packed engine, loss and estimator against the CPU's oracles   4 minutes
#   2  and vLLM: main_ppo +atpo=tree +train=packed as on GPUs (no padding, CUDA graphs, sleep)   6 minutes
#
#   bash tests/gpu.sh [--stages "0 1 2"]   # with $PYTHON, else .venv's, else python3
#   bash tests/gpu.sh --rehearse           # every line of all stages that needs no device
#
# Exits with 0 where every stage passed, 1 where one failed, 3 where one is not proven. Nothing is downloaded.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

STAGES="0 1 2" REHEARSE=
while (($#)); do
    case $1 in
        --stages) STAGES=$2 && shift 2 ;;
        --rehearse) REHEARSE=1 && shift ;;
        *) echo "unknown argument: $1" >&2 && exit 2 ;;
    esac
done
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=$([[ -x .venv/bin/python ]] && echo .venv/bin/python || echo python3)
fi
RESULTS=${RESULTS:-benchmarks/results}
export HF_HUB_OFFLINE=1 PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
unset VERL_PLATFORM
declare -A VERDICT
LIMITS=(120 240 360) # seconds
[[ -z $REHEARSE ]] || LIMITS=(900 1800 900) # on a CPU that others may use too

has() { "$PYTHON" -c "import importlib.util, sys; sys.exit(any(importlib.util.find_spec(m) is None for m in sys.argv[1:]))" "$@"; }

run() { # stage, command...: within the stage's limit
    local stage=$1 left
    shift
    left=$((LIMITS[stage] - SECONDS))
    echo "+ $*"
    if ((left <= 0)) || ! timeout "$left" "$@"; then VERDICT[$stage]="FAILED: $*"; fi
}

begin() { # stage, modules it needs
    local stage=$1
    shift
    SECONDS=0
    VERDICT[$stage]=PASSED
    if ! has "$@"; then
        VERDICT[$stage]="NOT PROVEN: not installed: one of $*"
        return 1
    fi
    if [[ -z $REHEARSE ]] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
        VERDICT[$stage]="NOT PROVEN: torch sees no CUDA device"
        return 1
    fi
}

rehearsed() { # stage: a rehearsal proves nothing about the device
    if [[ -n $REHEARSE && ${VERDICT[$1]} == PASSED ]]; then VERDICT[$1]="NOT PROVEN: rehearsed without a device"; fi
}

for stage in $STAGES; do
    case $stage in
        0)
            begin 0 torch transformers || continue
            if [[ -n $REHEARSE ]]; then
                run 0 "$PYTHON" -m benchmarks.packed.kernels --rehearse
            else
                run 0 "$PYTHON" -m benchmarks.packed.kernels --out "$RESULTS/packed_kernels.json"
            fi
            ;;
        1)
            begin 1 torch transformers verl pytest || continue
            run 1 "$PYTHON" -m pytest -q -rs -p no:cacheprovider tests/gpu/test_method.py tests/gpu/test_engine.py
            if [[ -z $REHEARSE ]]; then
                run 1 "$PYTHON" -m benchmarks.transfers
                run 1 "$PYTHON" -m benchmarks.packed --models 10M --repeats 2 --out "$RESULTS/packed_cuda.json"
            fi
            ;;
        2)
            begin 2 torch transformers verl pytest vllm || continue
            run 2 "$PYTHON" -m pytest -q -rs -p no:cacheprovider tests/gpu/test_training.py
            ;;
    esac
    rehearsed "$stage"
done

code=0
for stage in $STAGES; do
    echo "stage $stage: ${VERDICT[$stage]}"
    case ${VERDICT[$stage]} in
        FAILED*) code=1 ;;
        "NOT PROVEN"*) ((code == 1)) || code=3 ;;
    esac
done
exit $code
