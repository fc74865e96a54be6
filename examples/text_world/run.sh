#!/usr/bin/env bash
# Train an agent to find things in a text world and bring them where they belong: real verl, Ray, vLLM and FSDP2, on a
# plain CPU. Trees branch by fork: a branch starts in a copy of the world as its shared turns left it.
#
#   bash examples/text_world/run.sh                     # about 15 minutes on 2 cores after the installation
#   SEED=1 STEPS=20 bash examples/text_world/run.sh     # other games, fewer steps
#   bash examples/text_world/run.sh +atpo=paper ...     # further arguments go to main_ppo
set -euo pipefail
########################### user block ###########################
SEED=${SEED:-0} STEPS=${STEPS:-40}
PROMPTS=${PROMPTS:-8} # prompts a step; each grows one tree of 12 leaves
LR=${LR:-1e-3}
OUT=${OUT:-outputs/text_world_seed$SEED}
########################### end of user block ####################
TASK=text_world TITLE="Text world" TESTS="success in games it never trained on, by number of rooms"
DATA=(data.max_prompt_length=48 data.max_response_length=336)
ROLLOUT=( # verl does not act on the last turn: 9 actions
    actor_rollout_ref.rollout.max_model_len=384
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=10
    actor_rollout_ref.rollout.multi_turn.tool_config_path=examples/text_world/tool.yaml
)
REWARD=(reward.custom_reward_function.path=examples/text_world/reward.py)
source "$(dirname "${BASH_SOURCE[0]}")/../kit/run.sh" "$@"
