#!/usr/bin/env bash
# Train an agent that only knows a base URL to repair a small repository: real verl, Ray, vLLM and FSDP2, on a plain CPU.
#
#   bash examples/black_box/run.sh                      # the agent with the package openai
#   AGENT=program SEED=1 bash examples/black_box/run.sh # a command line program; agents_sdk: the OpenAI Agents SDK
set -euo pipefail
########################### user block ###########################
AGENT=${AGENT:-openai_client} SEED=${SEED:-0} STEPS=${STEPS:-12}
PROMPTS=${PROMPTS:-8} # prompts a step; each grows one tree of 12 leaves
LR=${LR:-1.5e-3}
PREPARED=${PREPARED:-outputs/black_box_seed$SEED} # data and the model that training starts from, shared by all agents
OUT=${OUT:-outputs/black_box_${AGENT}_seed$SEED}
########################### end of user block ####################
TASK=black_box TITLE="Black box ($AGENT)" TESTS="share of new repositories whose checks pass, by number of faults" TEST_EVERY=$STEPS
NAMED=agent=examples.black_box.$AGENT:solve
ROOT=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
[[ $AGENT != program ]] || NAMED="command='$ROOT/.venv/bin/python -S -m examples.black_box.program'"
DATA=(data.max_prompt_length=16 data.max_response_length=176)
ROLLOUT=(+agent=gateway "actor_rollout_ref.rollout.custom.gateway.$NAMED" actor_rollout_ref.rollout.max_model_len=192 +train=packed)
REWARD=(reward.custom_reward_function.path=examples/black_box/reward.py)
source "$(dirname "${BASH_SOURCE[0]}")/../kit/run.sh" "$@"
