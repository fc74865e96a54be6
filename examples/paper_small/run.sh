#!/usr/bin/env bash
# The paper's whole setting at a small scale, on a CPU: real questions -> parquet -> a real retriever server over real
# passages -> recipes/train.sh with a tiny model -> recipes/evaluate.sh -> a table per benchmark. Nothing is learned
# here, the model is far too small; it shows that every part fits the next.
#
#   QUESTIONS=q.jsonl CORPUS=c.jsonl bash examples/paper_small/run.sh      # schemas: recipes/data/README.md
#   METHOD=grpo STYLE=tools bash examples/paper_small/run.sh trainer.save_freq=1 ...
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

########################### user block ###########################
QUESTIONS=${QUESTIONS:-../shared/data/multihop_mini_questions.jsonl} # rows name their benchmark in data_source
CORPUS=${CORPUS:-../shared/data/multihop_mini_corpus.jsonl}
OUT=${OUT:-outputs/paper_small}
RETRIEVER=${RETRIEVER:-bm25} # or dense, with MODEL for the retriever in RETRIEVER_ARGS
RETRIEVER_ARGS=${RETRIEVER_ARGS:-}
export METHOD=${METHOD:-atpo} STYLE=${STYLE:-tags}
export STEPS=${STEPS:-2} PROMPTS=${PROMPTS:-4}
########################### end of user block ####################

bash examples/setup_cpu.sh
export PYTHON=$PWD/.venv/bin/python HF_HUB_OFFLINE=1 PYTHONPATH=$PWD
mkdir -p "$OUT"
folder=$(realpath "$OUT")

echo "== 1/5  data"
files=(--file "hotpotqa:train=$QUESTIONS")
for benchmark in hotpotqa 2wikimultihopqa musique; do
    files+=(--file "$benchmark:dev=$QUESTIONS")
done
"$PYTHON" -m recipes.data.prepare --out "$folder/data" --style "$STYLE" --task multihop "${files[@]}"

echo "== 2/5  a tiny model that knows the format"
"$PYTHON" -m examples.paper_small.make_model --questions "$QUESTIONS" --corpus "$CORPUS" --style "$STYLE" --out "$folder/model"

echo "== 3/5  retriever server (log: $folder/retriever.log)"
port=$("$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export SEARCH_URL=http://127.0.0.1:$port
# shellcheck disable=SC2086 # RETRIEVER_ARGS is a list of words
"$PYTHON" -m verl_atpo.search_qa.retriever --corpus "$CORPUS" --index-dir "$folder/index" --method "$RETRIEVER" --port "$port" \
    $RETRIEVER_ARGS >"$folder/retriever.log" 2>&1 </dev/null &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT
for _ in $(seq 120); do
    curl --silent --fail --output /dev/null "$SEARCH_URL/health" && break
    kill -0 "$server" 2>/dev/null || { cat "$folder/retriever.log" >&2; exit 1; }
    sleep 1
done

export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export MODEL_PATH=$folder/model DATA_DIR=$folder/data GPUS_PER_NODE=1 MINI_BATCH=$PROMPTS LR=1e-4
export PROMPT_LENGTH=512 RESPONSE_LENGTH=1536 TOOL_CALLS=3
CPU=(
    +platform=cpu +sampler=quick
    actor_rollout_ref.rollout.max_num_seqs=128
    hydra.job_logging.root.level=WARNING
)

echo "== 4/5  recipes/train.sh, METHOD=$METHOD, $STEPS steps (log: $folder/train.log)"
rm -rf "$folder/train"
run() { # name, script, arguments; the log goes to a file and is shown when the script fails
    local name=$1
    shift
    bash "$@" >"$folder/$name.log" 2>&1 </dev/null || { tail -n 60 "$folder/$name.log" >&2; exit 1; }
}
OUT=$folder/train METRICS=$folder/train.jsonl run train recipes/train.sh "${CPU[@]}" trainer.test_freq=-1 trainer.save_freq="$STEPS" "$@"

echo "== 5/5  recipes/evaluate.sh (log: $folder/evaluate.log)"
CHECKPOINT=$folder/train/checkpoints/global_step_$STEPS OUT=$folder/evaluation run evaluate recipes/evaluate.sh "${CPU[@]}"
cat "$folder/evaluation/table.md"
