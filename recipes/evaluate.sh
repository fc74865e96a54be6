#!/usr/bin/env bash
# Scores on all questions of DATA_DIR/test.parquet, greedy, one answer each; a table per benchmark in OUT.
#
#   MODEL_PATH=Qwen/Qwen3-4B bash recipes/evaluate.sh                                      # the untrained model
#   MODEL_PATH=Qwen/Qwen3-4B CHECKPOINT=outputs/.../checkpoints/global_step_240 \
#       bash recipes/evaluate.sh                                                           # a trained one
#
# A checkpoint is read by as many GPUs, with the same BACKEND, as wrote it. All other variables are train.sh's.
set -euo pipefail

########################### user block ###########################
export MODEL_PATH=${MODEL_PATH:-Qwen/Qwen3-4B}
export STYLE=${STYLE:-tools}
export DATA_DIR=${DATA_DIR:-data/qa_$STYLE}
export CHECKPOINT=${CHECKPOINT:-}
trained=${CHECKPOINT:+$(basename "$(dirname "$(dirname "$CHECKPOINT")")")_$(basename "$CHECKPOINT")}
export OUT=${OUT:-outputs/eval_${trained:-$(basename "$MODEL_PATH")_$STYLE}}
########################### end of user block ####################

export METHOD=react VAL_SAMPLES=-1 METRICS=$OUT/metrics.jsonl LOGGER='["console","file"]'
export TRAIN_FILE=$DATA_DIR/test.parquet VAL_FILE=$DATA_DIR/test.parquet # main_ppo opens a training file in any case

bash "$(dirname "${BASH_SOURCE[0]}")/train.sh" "$@"
[[ -n ${DRY_RUN:-} ]] || "${PYTHON:-python}" -m verl_atpo.search_qa.evaluation "$METRICS" --test "$VAL_FILE" --out "$OUT"
