#!/usr/bin/env bash
# Qwen3-8B, trained on NQ; METHOD and the other variables are those of train.sh, where the whole command stands.
set -euo pipefail
export MODEL_PATH=${MODEL_PATH:-Qwen/Qwen3-8B} TASK=singlehop
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" "$@"
