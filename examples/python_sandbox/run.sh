#!/usr/bin/env bash
# Train an agent to work out prices in a Python sandbox: real verl, Ray, vLLM and FSDP2, on a plain CPU.
#
#   bash examples/python_sandbox/run.sh                     # about 10 minutes on 2 cores after the installation
#   SEED=1 STEPS=40 bash examples/python_sandbox/run.sh     # other problems and another model, more steps
#   bash examples/python_sandbox/run.sh +atpo=paper ...     # further arguments go to main_ppo
set -euo pipefail
########################### user block ###########################
SEED=${SEED:-0} STEPS=${STEPS:-20}
PROMPTS=${PROMPTS:-8} # prompts a step; each grows one tree of 12 leaves
LR=${LR:-2e-3}
OUT=${OUT:-outputs/python_sandbox_seed$SEED}
TOOLS=${TOOLS:-verl_atpo/tools/python.yaml}
########################### end of user block ####################
TASK=python_sandbox TITLE="Python sandbox" TESTS="accuracy on problems it never trained on, by number of steps"
TEST_EVERY=10
DATA=(data.max_prompt_length=56 data.max_response_length=184)
ROLLOUT=(
    actor_rollout_ref.rollout.max_model_len=256
    actor_rollout_ref.rollout.multi_turn.max_assistant_turns=8
    actor_rollout_ref.rollout.multi_turn.tool_config_path="$TOOLS"
)
REWARD=(reward.custom_reward_function.path=examples/kit/answer_reward.py)
source "$(dirname "${BASH_SOURCE[0]}")/../kit/run.sh" "$@"
