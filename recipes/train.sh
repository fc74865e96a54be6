#!/usr/bin/env bash
# The paper's setting, search-augmented question answering, for any of its models and methods. The scripts named after
# a model and a task set MODEL_PATH and TASK and run this one.
#
#   METHOD=grpo bash recipes/train.sh                    # a baseline on the same budget
#   DRY_RUN=1 bash recipes/train.sh                      # print main_ppo's arguments one per line, start nothing
#   bash recipes/train.sh trainer.save_freq=10 ...       # further arguments go to main_ppo, behind the ones below
#
# recipes/README.md explains methods, variables and several nodes; docs/reproducing.md the whole way to the table.
# Marks: [A] as in the authors' released scripts (docs/reproducing.md cites them), [O] ours: they do not say it.
set -euo pipefail

########################### user block ###########################
METHOD=${METHOD:-atpo}            # atpo grpo dapo gspo tree_grpo entropy_branching react
TASK=${TASK:-multihop}            # multihop singlehop
STYLE=${STYLE:-tools}             # tools (function calling) tags (the paper's <search> tags)
ENGINE=${ENGINE:-vllm}            # vllm sglang
BACKEND=${BACKEND:-fsdp2}         # fsdp2 megatron
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen3-4B}
CHECKPOINT=${CHECKPOINT:-}        # .../global_step_N to start from; empty: the newest in OUT, or MODEL_PATH
NNODES=${NNODES:-1}               # [A]
GPUS_PER_NODE=${GPUS_PER_NODE:-8} # [A]
DATA_DIR=${DATA_DIR:-data/qa_$STYLE}
TRAIN_FILE=${TRAIN_FILE:-$DATA_DIR/train_$TASK.parquet}
VAL_FILE=${VAL_FILE:-$DATA_DIR/test.parquet}
VAL_SAMPLES=${VAL_SAMPLES:-1024}  # [O] random questions per validation; -1: all, as recipes/evaluate.sh does
SEARCH_URL=${SEARCH_URL:-http://127.0.0.1:8000}
OUT=${OUT:-outputs/$(basename "$MODEL_PATH")_${TASK}_${METHOD}_$STYLE}
LOGGER=${LOGGER:-'["console","file"]'}
METRICS=${METRICS:-$OUT/metrics_$(date +%Y%m%d-%H%M%S).jsonl} # where LOGGER's "file" writes
PYTHON=${PYTHON:-python}

STEPS=${STEPS:-240}               # [O] the authors' script says 5 epochs and not when they stopped
PROMPTS=${PROMPTS:-64}            # [A] prompts a step
MINI_BATCH=${MINI_BATCH:-8}       # [A] prompts per optimizer step
LR=${LR:-1e-6}                    # [A]
PROMPT_LENGTH=${PROMPT_LENGTH:-2000}     # [A] tokens
RESPONSE_LENGTH=${RESPONSE_LENGTH:-6192} # [A] tokens, all turns and observations together
TOOL_CALLS=${TOOL_CALLS:-6}       # [A] searches per trajectory
GPU_MEMORY=${GPU_MEMORY:-0.6}     # [A] the engine's share
ROLLOUT_TP=${ROLLOUT_TP:-1}       # [A] GPUs per engine replica
MEGATRON_TP=${MEGATRON_TP:-2}     # [O] GPUs per training replica with BACKEND=megatron
########################### end of user block ####################

TRAJECTORIES=22 # per prompt, for all methods: M + L * K of +atpo=paper
CONTEXT=$((PROMPT_LENGTH + RESPONSE_LENGTH))
for path in OUT METRICS TRAIN_FILE VAL_FILE CHECKPOINT; do # main_ppo's processes may have another working directory
    [[ -z ${!path} ]] || printf -v "$path" %s "$(realpath -m "${!path}")"
done

die() {
    echo "recipes: $1" >&2
    exit 2
}

case $BACKEND in
fsdp2)
    TRAINING=(model_engine=dp actor_rollout_ref.actor.strategy=fsdp2)
    OFFLOAD_REFERENCE=actor_rollout_ref.ref.fsdp_config.param_offload=True # [A]
    REPLICAS=$((NNODES * GPUS_PER_NODE))
    ;;
megatron)
    TRAINING=(model_engine=megatron actor_rollout_ref.actor.megatron.tensor_model_parallel_size="$MEGATRON_TP")
    OFFLOAD_REFERENCE=actor_rollout_ref.ref.megatron.param_offload=True
    REPLICAS=$((NNODES * GPUS_PER_NODE / MEGATRON_TP))
    ;;
*) die "BACKEND=$BACKEND is unknown: expected fsdp2 or megatron" ;;
esac

CHAINS=(
    algorithm.adv_estimator=grpo
    actor_rollout_ref.rollout.n=$TRAJECTORIES
)
TREE_OF_TRAJECTORIES=( # the paper's trees, but every token of a row gets the row's outcome, relative to the prompt's rows
    +atpo=paper
    algorithm.adv_estimator=grpo
)
TOKEN_RATIO=(
    actor_rollout_ref.actor.policy_loss.loss_mode=vanilla
    actor_rollout_ref.actor.loss_agg_mode=token-mean # [A]
    actor_rollout_ref.actor.clip_ratio_low=0.2       # [A]
    actor_rollout_ref.actor.clip_ratio_high=0.2      # [A]
)
KL_LOSS=(
    actor_rollout_ref.actor.use_kl_loss=True
    actor_rollout_ref.actor.kl_loss_coef=0.001        # [A] in their GRPO script
    actor_rollout_ref.actor.kl_loss_type=low_var_kl   # [A]
    $OFFLOAD_REFERENCE
)

case $METHOD in
atpo) ALGORITHM=(+atpo=paper) ;;
grpo) ALGORITHM=("${CHAINS[@]}" "${TOKEN_RATIO[@]}" "${KL_LOSS[@]}") ;;
dapo) # clip-higher, token-level loss, no KL, and groups with equal rewards replaced by fresh ones
    ALGORITHM=(
        "${CHAINS[@]}" "${TOKEN_RATIO[@]}"
        actor_rollout_ref.actor.clip_ratio_high=0.28
        algorithm.filter_groups.enable=True
        algorithm.filter_groups.metric=reward
    )
    ;;
gspo)
    ALGORITHM=(
        "${CHAINS[@]}"
        actor_rollout_ref.actor.policy_loss.loss_mode=gspo
        actor_rollout_ref.actor.loss_agg_mode=seq-mean-token-mean
        actor_rollout_ref.actor.clip_ratio_low=0.0003
        actor_rollout_ref.actor.clip_ratio_high=0.0004
    )
    ;;
tree_grpo)
    ALGORITHM=(
        "${TREE_OF_TRAJECTORIES[@]}" "${TOKEN_RATIO[@]}" "${KL_LOSS[@]}"
        algorithm.atpo.expansion.strategy=random
    )
    ;;
entropy_branching) ALGORITHM=("${TREE_OF_TRAJECTORIES[@]}" "${TOKEN_RATIO[@]}") ;;
react) # the model as it is, or CHECKPOINT: validation, no training
    ALGORITHM=("${CHAINS[@]}" trainer.val_only=True trainer.val_before_train=True)
    ;;
*) die "METHOD=$METHOD is unknown: expected atpo, grpo, dapo, gspo, tree_grpo, entropy_branching or react" ;;
esac

case $STYLE in
tools) AGENT=(+agent=search) ;;
tags) AGENT=(+agent=search_tags) ;;
*) die "STYLE=$STYLE is unknown: expected tools or tags" ;;
esac
AGENT+=(
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=$((TOOL_CALLS + 1))
    +score=qa_paper
)

[[ $ENGINE == vllm || $ENGINE == sglang ]] || die "ENGINE=$ENGINE is unknown: expected vllm or sglang"
[[ $TASK == multihop || $TASK == singlehop ]] || die "TASK=$TASK is unknown: expected multihop or singlehop"

if [[ -n $CHECKPOINT ]]; then
    RESUME=(trainer.resume_mode=resume_path trainer.resume_from_path="$CHECKPOINT")
elif [[ $METHOD == react ]]; then
    RESUME=(trainer.resume_mode=disable)
else
    RESUME=(trainer.resume_mode=auto)
fi

DATA=(
    data.train_files="$TRAIN_FILE"
    data.val_files="$VAL_FILE"
    data.val_max_samples="$VAL_SAMPLES"
    data.train_batch_size="$PROMPTS"
    data.max_prompt_length="$PROMPT_LENGTH"
    data.max_response_length="$RESPONSE_LENGTH"
    data.seed=42
)
MODEL=(
    actor_rollout_ref.model.path="$MODEL_PATH"
)
ACTOR=(
    actor_rollout_ref.actor.optim.lr="$LR"
    actor_rollout_ref.actor.ppo_mini_batch_size="$MINI_BATCH"
    actor_rollout_ref.actor.use_dynamic_bsz=True                            # [A]
    actor_rollout_ref.actor.ppo_max_token_len_per_gpu=$((2 * CONTEXT))      # [A]
)
ROLLOUT=( # temperature 1.0 in training and greedy in validation [A] are verl's defaults
    actor_rollout_ref.rollout.name="$ENGINE"
    actor_rollout_ref.rollout.tensor_model_parallel_size="$ROLLOUT_TP"
    actor_rollout_ref.rollout.gpu_memory_utilization="$GPU_MEMORY"
    actor_rollout_ref.rollout.max_model_len=$CONTEXT
    actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=$((4 * CONTEXT)) # [A]
)
TRAINER=(
    trainer.nnodes="$NNODES"
    trainer.n_gpus_per_node="$GPUS_PER_NODE"
    trainer.total_training_steps="$STEPS"
    trainer.total_epochs=1000 # STEPS ends the run
    trainer.val_before_train=False # [A]
    trainer.test_freq=20 # [A]
    trainer.save_freq=50 # [A]
    trainer.max_actor_ckpt_to_keep=2
    trainer.project_name=verl_atpo
    trainer.experiment_name="$(basename "$OUT")"
    trainer.default_local_dir="$OUT/checkpoints"
    trainer.logger="$LOGGER"
    hydra.run.dir="$OUT/hydra"
)
RAY=( # what agent loops and the logger read, also on nodes that joined with `ray start`
    +ray_kwargs.ray_init.runtime_env.env_vars.SEARCH_URL="$SEARCH_URL"
    +ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$METRICS"
)
ARGUMENTS=(
    "${TRAINING[@]}" "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${AGENT[@]}" "${TRAINER[@]}" "${RAY[@]}"
    "${ALGORITHM[@]}" "${RESUME[@]}" "$@"
)

if [[ -n ${DRY_RUN:-} ]]; then
    printf '%s\n' "${ARGUMENTS[@]}"
    exit 0
fi

for file in "$TRAIN_FILE" "$VAL_FILE"; do
    [[ -f $file ]] || die "$file is missing; make it with
    python -m recipes.data.prepare --out $DATA_DIR --style $STYLE
  or set DATA_DIR to where it is"
done
[[ -z $CHECKPOINT || -d $CHECKPOINT/actor ]] || die "CHECKPOINT=$CHECKPOINT holds no actor/: expected .../global_step_N"
((MINI_BATCH * TRAJECTORIES % REPLICAS == 0)) || die "MINI_BATCH=$MINI_BATCH times $TRAJECTORIES trajectories does not
  divide among $REPLICAS training replicas; change MINI_BATCH, NNODES or GPUS_PER_NODE"
if [[ -z ${SKIP_SERVER_CHECK:-} ]]; then
    # A Search-R1 server has no /health: 404 says that it is there.
    status=$(curl --silent --output /dev/null --max-time 10 --write-out '%{http_code}' "$SEARCH_URL/health" || true)
    [[ $status == 200 || $status == 404 ]] || die "no search server at $SEARCH_URL (/health answered $status); start one,
    python -m verl_atpo.search_qa.retriever --corpus CORPUS.jsonl
  set SEARCH_URL to where it is (every node must reach it), or skip this check with SKIP_SERVER_CHECK=1"
fi

# One node: a Ray of its own, whatever else runs on the machine. Several: the cluster that `ray start` made on this one.
RAY_DEFAULT=local
((NNODES == 1)) || RAY_DEFAULT=auto
export RAY_ADDRESS=${RAY_ADDRESS:-$RAY_DEFAULT}

mkdir -p "$OUT" "$(dirname "$METRICS")"
export SEARCH_URL VERL_FILE_LOGGER_PATH=$METRICS
set -x
"$PYTHON" -m verl.trainer.main_ppo "${ARGUMENTS[@]}"
