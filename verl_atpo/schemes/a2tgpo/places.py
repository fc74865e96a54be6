"""Places in verl and vLLM that A²TGPO needs: log-probs of a prompt's tokens, and masked advantages in the loss."""

from __future__ import annotations

from verl_atpo.seams.place import seam

SEAMS = (
    seam(
        "verl.workers.rollout.vllm_rollout.vllm_async_server:vLLMHttpServer.generate",
        "the engine says how likely the gold answer is",
        "prompt_ids sampling_params request_id",
        "extract_prompt_logprobs num_cached_tokens max_tokens SamplingParams",
    ),
    seam(
        "vllm.sampling_params:SamplingParams",
        "a prompt is scored on top of what the prefix cache holds",
        mentions="prompt_logprobs skip_reading_prefix_cache detokenize",
    ),
    seam(
        "verl.trainer.ppo.v1.trainer_base:PPOTrainer._compute_advantage",
        "the number after a turn reaches the loss",
        mentions="advantages response_to_nested response_mask",
    ),
    seam("config:actor_rollout_ref.rollout.name", "which engine it is"),
    seam("config:actor_rollout_ref.rollout.logprobs_mode", "what it calls log-probs"),
)
