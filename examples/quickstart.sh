#!/usr/bin/env bash
# Train an agent to search its way through multi-hop questions: real verl, Ray, vLLM and FSDP2, on a plain CPU.
#
#   bash examples/quickstart.sh                     # 10 to 15 minutes on 2 cores after the installation
#   SEED=1 STEPS=20 bash examples/quickstart.sh     # another world, fewer steps
#   bash examples/quickstart.sh +atpo=paper ...     # further arguments go to main_ppo
set -euo pipefail
########################### user block ###########################
SEED=${SEED:-0}
STEPS=${STEPS:-40}
PROMPTS=${PROMPTS:-8} # prompts a step; each grows one tree of 12 leaves
LR=${LR:-1e-3}
TRAIN=${TRAIN-packed} # every distinct token is trained once; TRAIN= trains on verl's padded rows
OUT=${OUT:-outputs/hopqa_seed$SEED}
########################### end of user block ####################
TASK=hopqa TITLE=HopQA TESTS="accuracy on entities it never trained on, by number of hops"
DATA=(data.max_prompt_length=32 data.max_response_length=176)
ROLLOUT=(
    actor_rollout_ref.rollout.max_model_len=256
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=6
    actor_rollout_ref.rollout.multi_turn.function_tool_path=examples/hopqa/search_tool.py
)
REWARD=(reward.custom_reward_function.path=examples/kit/answer_reward.py)
source "$(dirname "${BASH_SOURCE[0]}")/kit/run.sh" ${TRAIN:+"+train=$TRAIN"} "$@"
