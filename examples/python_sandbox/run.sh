#!/usr/bin/env bash
# Train an agent to work out prices in a Python sandbox: real verl, Ray, vLLM and FSDP2, on a plain CPU.
#
#   bash examples/python_sandbox/run.sh                     # about 10 minutes on 2 cores after the installation
#   SEED=1 STEPS=40 bash examples/python_sandbox/run.sh     # other problems and another model, more steps
#   bash examples/python_sandbox/run.sh +atpo=chain ...     # further arguments go to main_ppo
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

########################### user block ###########################
SEED=${SEED:-0}
STEPS=${STEPS:-20}
PROMPTS=${PROMPTS:-8}          # prompts a step; each grows one tree of 16 leaves
LR=${LR:-2e-3}
OUT=${OUT:-outputs/python_sandbox_seed$SEED}
TOOLS=${TOOLS:-verl_atpo/tools/python.yaml}
########################### end of user block ####################

bash examples/setup_cpu.sh
python=.venv/bin/python
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
rm -rf "$OUT/trees" "$OUT/metrics.jsonl"

echo "== 1/3  problems, and a model that works them out badly ($OUT)"
"$python" -m examples.python_sandbox.prepare --out "$OUT" --seed "$SEED"

DATA=(
    data.train_files="$OUT/train.parquet"
    data.val_files="$OUT/val.parquet"
    data.train_batch_size="$PROMPTS"
    data.max_prompt_length=56
    data.max_response_length=184
    data.seed="$SEED"
)
MODEL=(
    actor_rollout_ref.model.path="$OUT/model"
)
ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$PROMPTS"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=32
)
ROLLOUT=(
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=64
    actor_rollout_ref.rollout.max_model_len=256
    actor_rollout_ref.rollout.max_num_seqs=256
    actor_rollout_ref.rollout.seed="$SEED"
    actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent
    actor_rollout_ref.rollout.multi_turn.format=hermes
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=8
    actor_rollout_ref.rollout.multi_turn.tool_config_path="$TOOLS"
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
)
REWARD=(
    reward.custom_reward_function.path=examples/kit/answer_reward.py
    reward.custom_reward_function.name=compute_score
)
TRAINER=(
    trainer.total_training_steps="$STEPS"
    trainer.total_epochs=1000
    trainer.test_freq=10
    trainer.save_freq=-1
    trainer.logger='["console","file"]'
    trainer.default_local_dir="$OUT/checkpoints"
    hydra.run.dir="$OUT/hydra"
)

echo "== 2/3  training: main_ppo +atpo=tree, $STEPS steps of $PROMPTS trees (log: $OUT/train.log)"
# One thread a process: the model is tiny, and Ray's processes outnumber the cores.
VERL_PLATFORM=cpu OMP_NUM_THREADS=1 VERL_FILE_LOGGER_PATH=$OUT/metrics.jsonl PYTHONPATH=$PWD HF_HUB_OFFLINE=1 \
    "$python" -m verl.trainer.main_ppo +atpo=tree +platform=cpu +sampler=quick \
    algorithm.atpo.dump_dir="$OUT/trees" \
    "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" "${TRAINER[@]}" "$@" \
    >"$OUT/train.log" 2>&1 </dev/null &
run=$!
trap 'kill "$run" 2>/dev/null || true' INT TERM
"$python" -m examples.kit.watch "$OUT/metrics.jsonl" --pid "$run"
if ! wait "$run"; then
    tail -n 40 "$OUT/train.log" >&2
    echo "Training failed; the whole log is $OUT/train.log" >&2
    exit 1
fi

echo "== 3/3  what it learned (validation accuracy on problems it never trained on, by number of steps)"
"$python" -m examples.kit.summary "$OUT/metrics.jsonl" "$OUT/learning_curve.png" --title "Python sandbox"
"$python" -m verl_atpo.view "$OUT" --export "$OUT/tree.html"
echo
echo "learning curve: $OUT/learning_curve.png"
echo "one tree:       $OUT/tree.html"
echo "every tree:     $python -m verl_atpo.view $OUT   (in the browser)"
