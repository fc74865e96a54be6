#!/usr/bin/env bash
# Qwen2.5-7B-Instruct, trained on HotpotQA; METHOD and the other variables are those of train.sh, where the whole command stands.
set -euo pipefail
export MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct} TASK=multihop
exec bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" "$@"
