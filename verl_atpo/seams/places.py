"""All seams of verl that this package depends on: names, parameters, and expressions in function bodies.

Seams are listed under the feature that needs them. :mod:`verl_atpo.seams.check` searches verl's source for them without
importing it, ``python -m verl_atpo.doctor`` prints what is missing, and a run that uses a feature whose seams are
missing is refused before Ray starts. Once all seams hold, a new version of verl can be tried.
"""

from __future__ import annotations

from verl_atpo.method.scheme import known_schemes
from verl_atpo.seams.place import Feature as Feature
from verl_atpo.seams.place import Seam as Seam
from verl_atpo.seams.place import seam as _seam

_AGENT = "verl.experimental.agent_loop.agent_loop"
_TOOL_AGENT = "verl.experimental.agent_loop.tool_agent_loop:ToolAgentLoop"
_TQ = "verl.trainer.ppo.v1.agent_loop_tq"
_FSDP = "verl.workers.engine.fsdp.transformer_impl"
_REPLAY = "verl.trainer.ppo.v1.replay_buffer"
_ALGOS = "verl.trainer.ppo.core_algos"

SEAMS: dict[Feature, tuple[Seam, ...]] = {
    Feature.METHOD: (
        _seam("verl:", "loads the plugin in the driver and in every worker", mentions="verl.plugins"),
        _seam(f"{_ALGOS}:register_adv_est", "the estimator gets its name", "name_or_enum"),
        _seam(f"{_ALGOS}:register_policy_loss", "the loss gets its name", "name"),
        _seam(f"{_ALGOS}:POLICY_LOSS_REGISTRY", "no other loss of that name is overwritten"),
        _seam(f"{_ALGOS}:agg_loss", "rows are added up as verl adds them", "loss_mat loss_mask loss_agg_mode"),
        _seam(
            "verl.trainer.ppo.ray_trainer:compute_advantage",
            "the estimator is called with these",
            mentions="get_adv_estimator_fn token_level_rewards response_mask config index uid",
        ),
        _seam(
            "verl.trainer.ppo.v1.utils:compute_advantage_for_multi_trajectories",
            "the same",
            mentions="compute_advantage",
        ),
        _seam(
            "verl.workers.utils.losses:ppo_loss",
            "the loss is called with these",
            mentions="get_policy_loss_fn old_log_prob log_prob advantages response_mask loss_agg_mode config "
            "rollout_is_weights",
        ),
        _seam("config:algorithm.adv_estimator", "chooses the estimator"),
        _seam("config:actor_rollout_ref.actor.policy_loss.loss_mode", "chooses the loss"),
        _seam("config:actor_rollout_ref.actor.loss_agg_mode", "chooses how rows are added up"),
    ),
    Feature.PRESETS: (
        _seam(
            "verl.trainer.main_ppo:main", "Hydra composes the config, callbacks run first", mentions="hydra main config"
        ),
        _seam(
            "hydra._internal.config_loader_impl:ConfigLoaderImpl.load_configuration",
            "overrides before a preset yield to it",
            "config_name overrides",
        ),
        _seam("hydra.experimental.callback:Callback.on_job_start", "the config is checked before Ray starts", "config"),
        _seam("verl.utils.config:validate_config", "verl's own checks follow", "config"),
        _seam("verl.trainer.ppo.utils:need_reference_policy", "the same", "config"),
        _seam("verl.trainer.ppo.utils:need_critic", "the same", "config"),
        _seam("verl.utils.tokenizer.tokenizer:hf_tokenizer", "the rehearsal renders prompts", "name_or_path"),
        _seam(
            "verl.experimental.reward_loop.reward_manager.registry:REWARD_MANAGER", "reward managers are known by name"
        ),
        _seam("verl.utils.import_utils:load_module", "the rehearsal loads the reward function", "module_path"),
        _seam("verl.utils.reward_score:default_compute_score", "the rehearsal scores with verl's own", "data_source"),
        _seam("verl.workers.rollout.replica:RolloutReplicaRegistry", "engines are known by name", mentions="_registry"),
        _seam("config:actor_rollout_ref.actor.clip_ratio_low", "what presets set"),
        _seam("config:actor_rollout_ref.actor.clip_ratio_high", "what presets set"),
    ),
    Feature.TREES: (
        _seam("verl.trainer.main_ppo:", "names the class of the sampler", mentions="agent_loop_manager_class"),
        _seam(f"{_TQ}:AgentLoopManagerTQ.__init__", "workers that grow trees", mentions="agent_loop_workers_class"),
        _seam(
            f"{_TQ}:AgentLoopManagerTQ.generate_sequences",
            "prompts are distributed to workers",
            "prompts",
            "chunk agent_loop_workers",
        ),
        _seam(
            f"{_TQ}:AgentLoopWorkerTQ",
            "each prompt is one call of _run_prompt",
            mentions="generate_sequences _run_prompt validate logprobs calculate_log_probs agent_name",
        ),
        _seam(
            f"{_TQ}:AgentLoopWorkerTQ._run_prompt",
            "a prompt becomes a tree, under verl's status protocol",
            "prompt sampling_params trajectory trace",
            "async_kv_put running finished failure __rollout_n__ __do_sample__ session_id _run_agent_loop",
        ),
        _seam(
            f"{_TQ}:AgentLoopWorkerTQ._agent_loop_postprocess",
            "a leaf becomes a row",
            "output validate",
            "uid session_id _compute_score reward_score as_dict async_kv_batch_put",
        ),
        _seam(
            f"{_AGENT}:AgentLoopWorker.__init__",
            "client and tools are those of one trajectory",
            mentions="llm_client tools rollout_config tokenizer",
        ),
        _seam(
            f"{_AGENT}:AgentLoopWorker._run_agent_loop",
            "a trajectory is one run of the agent loop",
            "sampling_params trajectory agent_name",
            "llm_client tools _agent_loop_postprocess",
        ),
        _seam(f"{_AGENT}:AgentLoopWorker._compute_score", "a leaf is scored", "outputs kwargs", "reward_score"),
        _seam(
            f"{_AGENT}:AgentLoopOutput",
            "what an agent loop returns",
            mentions="prompt_ids response_ids response_mask response_logprobs reward_score extra_fields",
        ),
        _seam(f"{_AGENT}:AgentLoopMetrics", "what a loop measured", mentions="generate_sequences tool_calls"),
        _seam(f"{_AGENT}:ToolListWrap", "how a loop gets its tools", mentions="tools"),
        _seam(f"{_AGENT}:DictConfigWrap", "how a loop gets its config", mentions="config"),
        _seam(f"{_AGENT}:AgentLoopOutput.as_dict", "values travel in the token rewards", mentions="rm_scores"),
        _seam(
            "verl.workers.rollout.llm_server:LLMServerClient.generate",
            "turns are answered from a recording",
            "request_id prompt_ids sampling_params",
        ),
        _seam(
            f"{_REPLAY}:ReplayBuffer._sync_metadata_from_transfer_queue",
            "a bug ends the run with its reason",
            mentions="failure_keys",
        ),
        _seam("verl.utils.tracking:Tracking.log", "metrics of trees are logged", "data step"),
        _seam(
            "verl.trainer.ppo.v1.trainer_base:PPOTrainer._val_metrics_update",
            "extras of rewards are averaged",
            "data_sources sample_uids reward_extra_infos_dict",
        ),
        _seam("verl.utils.tracking:FileLogger", "an earlier start's metrics are kept", mentions="open filepath"),
        _seam("verl.trainer.ppo.reward:get_custom_reward_fn", "a reward function is contained", "config"),
        _seam(
            f"{_ALGOS}:compute_grpo_outcome_advantage",
            "records of chains show GRPO's advantages",
            "token_level_rewards response_mask index norm_adv_by_std_in_grpo",
        ),
        _seam("verl.workers.rollout.replica:TokenOutput", "what the engine returns", mentions="token_ids log_probs"),
        _seam("transfer_queue:async_kv_put", "a prompt gets its status"),
        _seam("transfer_queue:kv_put", "prompts of a dead worker get one"),
        _seam("transfer_queue:kv_list", "prompts that have none are found"),
        _seam(
            "ray.actor:method",
            "failures are asked for in a concurrency group of their own",
            mentions="concurrency_group",
        ),
        _seam("verl.tools.function_tool:FunctionTool.call", "calls are answered from a recording", "parameters"),
        _seam("verl.tools.function_tool:normalize_function_tool_return", "what tools return", "ret"),
        _seam("verl.tools.base_tool:BaseTool.execute", "the same for tools with a state", "instance_id parameters"),
        _seam(
            f"{_TOOL_AGENT}._call_tool",
            "calls that verl answers itself are counted, rows come without nulls",
            "tool_call tools_kwargs agent_data",
            "_active_tools create_kwargs max_tool_response_length tool_response_truncate_side",
        ),
        _seam(f"{_TOOL_AGENT}._handle_processing_tools_state", "a tool ends the episode", "agent_data", "AgentState"),
        _seam("verl.tools.function_tool:FUNCTION_TOOL_REGISTRY", "functions of a file of tools"),
        _seam("verl.tools.function_tool:_LOADED_FUNCTION_TOOL_PATHS", "a file is loaded once"),
        _seam("verl.tools.schemas:OpenAIFunctionToolSchema", "the schema of a tool", mentions="function"),
        _seam("verl.tools.tool_registry:load_all_tools", "tools are made", "tool_config_path function_tool_path"),
        _seam("verl.tools.schemas:ToolResponse", "the text of an observation", mentions="text"),
        _seam("verl.experimental.agent_loop.tool_parser:FunctionCall", "a parsed call", mentions="name arguments"),
        _seam("verl.experimental.agent_loop.tool_parser:ToolParser", "formats are known by name", mentions="_registry"),
        _seam("verl.experimental.agent_loop.utils:resolve_config_path", "files are found as verl finds them"),
        _seam("config:actor_rollout_ref.rollout.n", "the number of leaves"),
        _seam("config:actor_rollout_ref.rollout.calculate_log_probs", "log-probs of the sampled tokens"),
        _seam("config:actor_rollout_ref.rollout.agent.default_agent_loop", "the loop of rows that name none"),
    ),
    Feature.SCHEMES: tuple(seam for kind in known_schemes().values() for seam in kind.seams()),
    Feature.PACKED: (
        _seam(
            "verl.workers.engine.base:EngineRegistry.register",
            "the engine gets its name",
            "model_type backend device vendor",
        ),
        _seam("verl.workers.engine.base:EngineRegistry.get_engine_cls", "it is chosen", mentions="VERL_ENGINE_VENDOR"),
        _seam(f"{_FSDP}:FSDPEngine._build_module", "the model's attention is set", "self", "model_config hf_config"),
        _seam(f"{_FSDP}:FSDPEngine.initialize", "the model is probed", "self"),
        _seam(f"{_FSDP}:FSDPEngine._gradient_sync_context", "gradients are reduced once", "is_last_micro_batch"),
        _seam(f"{_FSDP}:FSDPEngineWithLMHead.prepare_model_inputs", "packs go in", "micro_batch"),
        _seam(
            f"{_FSDP}:FSDPEngineWithLMHead.prepare_model_outputs",
            "rows come out",
            "output output_args micro_batch logits_processor_func",
            "log_probs entropy sum_pi_squared",
        ),
        _seam(
            f"{_FSDP}:FSDPEngineWithLMHead.forward_step",
            "one pack is run",
            "micro_batch loss_function forward_only",
            "prepare_model_inputs prepare_model_outputs model_output metrics _autocast_dtype",
        ),
        _seam("verl.workers.engine.utils:postprocess_batch_func", "packs are put together", "output_lst indices data"),
        _seam("verl.utils.tensordict_utils:index_select_tensor_dict", "rows of a pack", "batch indices"),
        _seam("verl.utils.tensordict_utils:assign_non_tensor", "settings of a batch", "tensor_dict"),
        _seam("verl.utils.tensordict_utils:get_non_tensor_data", "the same", "data key default"),
        _seam("verl.utils.tensordict_utils:get_tensordict", "a batch", "tensor_dict non_tensor_dict"),
        _seam("verl.utils.tensordict_utils:get", "a field", "tensordict key default"),
        _seam("verl.utils.metric.utils:Metric", "metrics of packs are added up", mentions="aggregation"),
        _seam("verl.utils.metric.utils:AggregationType", "the same", mentions="SUM MAX"),
        _seam("verl.utils.model:extract_multi_modal_inputs", "images and video of rows"),
        _seam("verl.utils.device:get_device_name", "the device of a pack"),
        _seam("verl.utils.device:get_device_id", "the same"),
        _seam("transfer_queue:kv_batch_get", "rows are read to be packed"),
        _seam("transfer_queue:KVBatchMeta", "the same"),
        _seam(
            "verl.trainer.ppo.v1.trainer_base:PPOTrainer._balance_batch",
            "rows are distributed to ranks",
            "batch metrics",
            "reorder",
        ),
        _seam(
            "verl.utils.seqlen_balancing:log_seqlen_unbalance", "the logged balance", "seqlen_list partitions prefix"
        ),
        _seam("config:actor_rollout_ref.model.external_lib", "loads the engine in trainer and workers"),
    ),
    Feature.CPU: (
        _seam(
            "verl.plugin.platform.platform_manager:PlatformRegistry.register", "the platform gets its name", "platform"
        ),
        _seam("verl.plugin.platform.platform_base:PlatformBase", "it is one", mentions="device_name"),
        _seam("vllm.platforms:__getattr__", "vLLM knows that it runs on a CPU", mentions="current_platform"),
        _seam("verl.plugin.platform.platform_manager:", "it is chosen", mentions="VERL_PLATFORM"),
        _seam(
            "verl.workers.engine.base:EngineRegistry.get_engine_cls", "FSDP2 is found", mentions="VERL_ENGINE_DEVICE"
        ),
        _seam("ray.runtime_context:RuntimeContext.get_job_id", "verl names its socket after it", "self"),
        _seam("ray.runtime_context:RuntimeContext.gcs_address", "tells two clusters of a machine apart"),
        _seam(
            "vllm.model_executor.layers.utils:dispatch_cpu_unquantized_gemm",
            "linear layers keep weights that can be written to",
            "layer remove_weight",
        ),
        _seam("config:trainer.device", "names the device"),
        _seam("config:transfer_queue.backend.SimpleStorage.num_data_storage_units", "one storage actor"),
    ),
    Feature.QUICK: (
        _seam("verl.trainer.ppo.v1.trainer_base:PPOTrainer", "a sampler of your own", mentions="custom_sampler"),
        _seam(f"{_REPLAY}:ReplayBufferAsync", "the asynchronous modes' buffer"),
        _seam(f"{_REPLAY}:ReplayBuffer.__init__", "polls", "trainer_mode sampler_kwargs poll_interval"),
    ),
    Feature.GLOO: (
        _seam(
            "verl.checkpoint_engine.base:CheckpointEngine", "the engine is one", mentions="send_weights receive_weights"
        ),
        _seam("verl.checkpoint_engine.base:CheckpointEngineRegistry.register", "the engine gets its name", "backend"),
        _seam("verl.checkpoint_engine.base:split_weight_chunks", "weights in buckets", "weights bucket_size"),
        _seam("verl.checkpoint_engine.base:merge_weight_chunks", "and out of them", "chunks bucket_size"),
        _seam("verl.checkpoint_engine.base:TensorMeta", "what is in a bucket", mentions="chunk_size"),
    ),
    Feature.TAGS: (
        _seam("verl.utils.rollout_trace:rollout_trace_op", "searches are traced"),
        _seam(
            "verl.experimental.agent_loop.tool_parser:ToolParser.extract_tool_calls",
            "tags are calls",
            "responses_ids tools",
        ),
        _seam(f"{_AGENT}:AgentLoopBase.ct_build_initial_tokens", "no tools in the prompt", "messages tools"),
        _seam(
            f"{_AGENT}:AgentLoopBase.ct_merge_context_msg",
            "answers are raw text",
            "previous_messages updated_messages runtime_token_ids response_mask response_logprobs tools",
        ),
        _seam(
            "verl.utils.tokenizer.continuous_token:MergeResult", "the same", mentions="token_ids appended_token_count"
        ),
    ),
}
"""Feature -> its seams. All features need ``METHOD``."""
