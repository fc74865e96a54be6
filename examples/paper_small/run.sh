#!/usr/bin/env bash
# The paper's whole setting at a small scale, on a CPU. Nothing is learned here: it shows that every part fits the next.
#   QUESTIONS=q.jsonl CORPUS=c.jsonl bash examples/paper_small/run.sh trainer.save_freq=1 ...  # arguments go to main_ppo
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../kit/steps.sh"
########################### user block ###########################
: "${QUESTIONS:?name a file of questions: recipes/data/README.md}" "${CORPUS:?name a file of passages: docs/retriever.md}"
RETRIEVER=${RETRIEVER:-bm25} RETRIEVER_ARGS=${RETRIEVER_ARGS:-} # or dense, with --model NAME
export METHOD=${METHOD:-atpo} STYLE=${STYLE:-tags} STEPS=${STEPS:-2} PROMPTS=${PROMPTS:-4}
########################### end of user block ####################
begin "${OUT:-outputs/paper_small}"
stage "1/3  data, a tiny model that knows the format, a search server ($OUT)"
"$python" -m recipes.data.prepare --out "$OUT/data" --style "$STYLE" --task multihop \
    --file={hotpotqa:train,hotpotqa:dev,2wikimultihopqa:dev,musique:dev}="$QUESTIONS"
"$python" -m examples.paper_small.make_model --questions "$QUESTIONS" --corpus "$CORPUS" --style "$STYLE" --out "$OUT/model"
serve_passages --corpus "$CORPUS" --index-dir "$OUT/index" --method "$RETRIEVER" $RETRIEVER_ARGS
small=(env VERL_PLATFORM=cpu OMP_NUM_THREADS=1 PYTHON="$python" MODEL_PATH="$OUT/model" DATA_DIR="$OUT/data" LR=1e-4
    GPUS_PER_NODE=1 MINI_BATCH="$PROMPTS" PROMPT_LENGTH=512 RESPONSE_LENGTH=1536 TOOL_CALLS=3 METRICS="$OUT/train.jsonl")
cpu=(+platform=cpu +sampler=quick actor_rollout_ref.rollout.max_num_seqs=128 trainer.test_freq=-1 trainer.save_freq="$STEPS")
stage "2/3  recipes/train.sh, METHOD=$METHOD, $STEPS steps (log: $OUT/train.log)" && rm -rf "$OUT/train"
logged train "${small[@]}" OUT="$OUT/train" bash recipes/train.sh "${cpu[@]}" "$@"
stage "3/3  recipes/evaluate.sh (log: $OUT/evaluate.log)" && checkpoint=$OUT/train/checkpoints/global_step_$STEPS
logged evaluate "${small[@]}" OUT="$OUT/evaluation" CHECKPOINT="$checkpoint" bash recipes/evaluate.sh "${cpu[@]}"
cat "$OUT/evaluation/table.md"
