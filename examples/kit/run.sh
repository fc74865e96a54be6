# The run script that the tasks share: prepare, train with main_ppo +atpo=tree on a CPU, show what was learned.
# A task's script sets its user block and what is below, then says `source .../kit/run.sh "$@"`.
#
#   TASK, TITLE, TESTS            package in examples/, its title, what validation measures
#   SEED STEPS PROMPTS LR OUT     user block: seed, training steps, prompts a step, learning rate, folder of the run
#   TEST_EVERY, SAVE_EVERY        steps between validations and between checkpoints; -1: none
#   DATA MODEL ACTOR ROLLOUT REWARD TRAINER     arrays of the task's own options of verl, which win over those here
#   PIP, THREADS, REPORT          packages to install without their dependencies, threads a process, the report's module
#   PREPARED                      folder of data and model, if several runs share them; OUT if it is not set
#
# A run that saves checkpoints continues from the last one when it is started again, with a metrics file for each start.
#
# OUT is in the environment as TASK's name in capitals with _DIR behind it, for tools: HOPQA_DIR.
# DRY_RUN=1 prints main_ppo's arguments, one per line, and starts nothing.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/steps.sh"
TEST_EVERY=${TEST_EVERY:-20}
SAVE_EVERY=${SAVE_EVERY:--1}
OUT=$(realpath -m "$OUT")
PREPARED=$(realpath -m "${PREPARED:-$OUT}")
newest=$OUT/checkpoints/latest_checkpointed_iteration.txt
BEFORE=True # validate before training, unless the first start has
if ((SAVE_EVERY > 0)) && [[ -f $newest ]]; then
    BEFORE=False
fi
for group in DATA MODEL ACTOR ROLLOUT REWARD TRAINER; do # a variable of this name in the environment is none of ours
    [[ $(declare -p "$group" 2>/dev/null) == "declare -a"* ]] || { unset "$group" && declare -a "$group=()"; }
done

DATA=(
    data.train_files="$PREPARED/train.parquet"
    data.val_files="$PREPARED/val.parquet"
    data.train_batch_size="$PROMPTS"
    data.seed="$SEED"
    "${DATA[@]}"
)
MODEL=(
    actor_rollout_ref.model.path="$PREPARED/model"
    "${MODEL[@]}"
)
ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$PROMPTS"
    actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu="$((4 * PROMPTS))" # goes into 12 rows a prompt, and 16
    "${ACTOR[@]}"
)
ROLLOUT=(
    algorithm.atpo.dump_dir="$OUT/trees"
    actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu="$((4 * PROMPTS))"
    actor_rollout_ref.rollout.max_num_seqs=256
    actor_rollout_ref.rollout.seed="$SEED"
    actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent
    actor_rollout_ref.rollout.multi_turn.format=hermes
    actor_rollout_ref.rollout.val_kwargs.do_sample=True
    actor_rollout_ref.rollout.val_kwargs.temperature=1.0
    "${ROLLOUT[@]}"
)
REWARD=(
    reward.custom_reward_function.name=compute_score
    "${REWARD[@]}"
)
TRAINER=(
    trainer.total_training_steps="$STEPS"
    trainer.total_epochs=1000 # STEPS ends the run
    trainer.val_before_train=$BEFORE
    trainer.test_freq="$TEST_EVERY"
    trainer.save_freq="$SAVE_EVERY"
    trainer.max_actor_ckpt_to_keep=1
    trainer.logger='["console","file"]'
    trainer.default_local_dir="$OUT/checkpoints"
    hydra.run.dir="$OUT/hydra"
    "${TRAINER[@]}"
)
ARGUMENTS=(
    +atpo=tree +platform=cpu +sampler=quick
    "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${REWARD[@]}" "${TRAINER[@]}" "$@"
)
if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "${ARGUMENTS[@]}"
    exit 0
fi

begin "$OUT"
for package in ${PIP:-}; do
    "$python" -m pip show --quiet "$package" 2>/dev/null ||
        "$python" -m pip install --quiet --disable-pip-version-check --no-deps "$package"
done
if ((SAVE_EVERY > 0)); then
    AGAIN="the same command continues from the last checkpoint"
else
    rm -rf "$OUT/trees" "$OUT/train.log" "$OUT"/metrics*.jsonl
fi
stage "1/3  what the task needs ($PREPARED)"
"$python" -m "examples.$TASK.prepare" --out "$PREPARED" --seed "$SEED"
[[ $BEFORE == True ]] || echo "   going on after step $(<"$newest")"

stage "2/3  training: main_ppo +atpo=tree, $STEPS steps of $PROMPTS trees (log: $OUT/train.log)"
export VERL_PLATFORM=cpu VERL_FILE_LOGGER_PATH=$OUT/metrics_$(date +%Y%m%d-%H%M%S).jsonl "${TASK^^}_DIR=$OUT"
export TENSORBOARD_DIR=${TENSORBOARD_DIR:-$OUT/tensorboard} # for trainer.logger=["tensorboard"]
[[ -z ${THREADS=1} ]] || export OMP_NUM_THREADS=$THREADS # one: the model is tiny, and processes outnumber the cores
"$python" -m verl.trainer.main_ppo "${ARGUMENTS[@]}" >>"$OUT/train.log" 2>&1 </dev/null &
training=$!
trap 'kill "$training" 2>/dev/null || true' INT TERM
"$python" -m verl_atpo.watch "$VERL_FILE_LOGGER_PATH" --pid "$training"
wait "$training" || failed train "${AGAIN:-}"

stage "3/3  what it learned: $TESTS"
"$python" -m "${REPORT:-examples.kit.summary}" "$OUT" --title "$TITLE"
"$python" -m verl_atpo.view "$OUT" --export "$OUT/tree.html"
echo
echo "learning curve: $OUT/learning_curve.png"
echo "one tree:       $OUT/tree.html"
echo "every tree:     $python -m verl_atpo.view $OUT   (in the browser)"
