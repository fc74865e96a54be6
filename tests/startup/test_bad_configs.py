"""More than a hundred configurations that cannot work, each with the words that its one message must have."""

from __future__ import annotations

import functools

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_atpo.startup.driver import LONGEST, CheckConfig

R, A, MT = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.rollout.multi_turn"
D = "distillation.distillation_loss.use_task_rewards"
X, C, G, T = (f"algorithm.atpo.{group}" for group in ("expansion", "credit", "growth", "tools"))


@functools.cache
def good(preset: str) -> DictConfig:
    with initialize_config_module("verl.trainer.config", version_base=None):
        engine = ["actor_rollout_ref.rollout.name=vllm"] if preset == "a2tgpo" else []
        overrides = [f"+atpo={preset}", "+agent=search", "data.train_files=none.parquet", *engine]
        return compose("ppo_trainer", overrides=overrides)


def config_with(*settings: str, preset: str = "tree") -> DictConfig:
    config = good(preset).copy()
    with open_dict(config):
        for setting in settings:
            key, _, value = setting.partition("=")
            OmegaConf.update(
                config,
                key,
                OmegaConf.to_container(OmegaConf.create(f"value: {value}"))["value"],
                force_add=True,
                merge=False,
            )
    return config


def refusal(config: DictConfig) -> str:
    with pytest.raises(SystemExit) as end:
        CheckConfig().on_job_start(config)
    message = str(end.value.code)
    assert message.startswith("verl_atpo: ") and len(message) <= LONGEST
    return message


def test_the_config_that_the_bad_ones_differ_from_is_good():
    for preset in ("tree", "paper", "chain", "a2tgpo"):
        CheckConfig().on_job_start(config_with(preset=preset))


def test_a_teacher_beside_the_policy_loss_is_good():
    """With `use_task_rewards`, verl adds the teacher's loss to the policy loss; and no teacher, no matter."""
    for preset in ("tree", "chain"):
        CheckConfig().on_job_start(config_with("distillation.enabled=true", f"{D}=true", preset=preset))
        CheckConfig().on_job_start(config_with("distillation.enabled=false", f"{D}=false", preset=preset))


def test_a_teacher_alone_is_refused_for_chains_too():
    assert f"{D}=False" in refusal(config_with("distillation.enabled=true", f"{D}=false", preset="chain"))


BAD = [
    # how trees grow
    (f"{X}.initial_chains=0", f"{X}.initial_chains=0", "at least 1"),
    (f"{X}.initial_chains=-3", f"{X}.initial_chains=-3", "at least 1"),
    (f"{X}.initial_chains=2.5", "expected int, got float"),
    (f"{X}.initial_chains=many", "expected int, got str"),
    (f"{X}.initial_chains=null", "expected int, got NoneType"),
    (f"{X}.initial_chains=true", "expected int, got bool"),
    (f"{X}.initial_chains=100000", "initial_chains=100000", "at most"),
    (f"{X}.branches_per_round=0", "set rounds=0"),
    (f"{X}.branches_per_round=-1", "branches_per_round=-1", "at least 0"),
    (f"{X}.branches_per_round=1e9", "branches_per_round=1000000000.0"),
    (f"{X}.rounds=-1", "rounds=-1", "0 leaves plain chains"),
    (f"{X}.rounds=5000", "rounds=5000", "at most"),
    (f"{X}.penalty=-0.1", "penalty=-0.1", "at least 0"),
    (f"{X}.penalty=.nan", "penalty=nan", "finite"),
    (f"{X}.penalty=.inf", "penalty=inf", "finite"),
    (f"{X}.penalty='0.05'", "expected float, got str"),
    (f"{X}.penalty_counts=sibling", "one of siblings, expansions", "Did you mean siblings?"),
    (f"{X}.strategy=best", "expected one of entropy, other_chains, random"),
    (f"{X}.spares=3", "fixed budgets leave none; set budget=adaptive"),
    (f"{X}.strategy=entropie", "Did you mean entropy?"),
    (f"{X}.strategy=7", "expected str, got int"),
    (f"{X}.round=2", f"Did you mean {X}.rounds"),
    (f"{X}=deep", "a group of settings (initial_chains"),
    # credit
    (f"{C}.backup=mean", "one of child_softmax, child_mean, leaf_mean"),
    (f"{C}.backup=child_softmx", "Did you mean child_softmax?"),
    (f"{C}.advantage=values", "Did you mean value?"),
    (f"{C}.advantage=null", "advantage=None", "one of value, diff_parent"),
    (f"{C}.normalize=std", "one of zscore, zscore_sample, center, none"),
    (f"{C}.normalise=center", f"Did you mean {C}.normalize"),
    (f"{C}.shared_turns=twice", "one of per_leaf, once"),
    (f"{C}.contexts=merge", "one of separate, merged, states", "Did you mean merged?"),
    (
        (f"{C}.contexts=states", f"{C}.advantage=value"),
        f"{C}.contexts='states'",
        "set advantage=diff_localglobal or diff_parent",
    ),
    (
        (f"{C}.contexts=states", "algorithm.adv_estimator=grpo"),
        "adv_estimator=grpo only sums",
        f"{C}.contexts=separate",
    ),
    ((f"{C}.contexts=merged", f"{R}.agent.agent_loop_manager_class=null"), "verl's own sampler", "add +atpo=tree"),
    (f"{C}=[1,2]", "a group of settings (backup"),
    # growth, tools, dump
    (f"{G}.max_regrows=-1", "at least 0"),
    (f"{G}.max_regrows=1000000", "at most"),
    (f"{G}.regrow_delay_s=-1", "at least 0"),
    (f"{G}.regrow_delay_s=1e9", "at most"),
    (f"{G}.regrow=3", f"Did you mean {G}.max_regrows"),
    (f"{T}.timeout_s=0", "above 0 or null", "Seconds one try may take"),
    (f"{T}.timeout_s=.nan", "timeout_s=nan"),
    (f"{T}.timeout_s=1e12", "at most"),
    (f"{T}.timeout=5", f"Did you mean {T}.timeout_s"),
    (f"{T}.retries=-2", "at least 0"),
    (f"{T}.retries=1000000", "at most"),
    (f"{T}.retry_delay_s=-0.5", "at least 0"),
    (f"{T}.max_calls=0", "at least 1 or null"),
    (f"{T}.concurrency=0", "at least 1 or null"),
    (f"{T}.concurrency=lots", "expected int or null, got str"),
    (f"{T}.max_observation_tokens=-1", "at least 1 or null"),
    (f"{T}.observation_cut=end", "one of head, middle, tail"),
    (f"{T}.on_outage=ignore", "one of regrow, observe"),
    (f"{T}.memoize=always", "one of never, tree, run"),
    (f"{T}.memo_size=0", "at least 1"),
    ("algorithm.atpo.dump_dir=5", "expected str or null, got int"),
    ("algorithm.atpo.dump_dir=/proc/trees", "dump_dir=/proc/trees cannot work", "no folder that can be written to"),
    ("algorithm.atpo.dump_dir=/etc/hostname/trees", "/etc/hostname is no folder"),
    ("algorithm.atpo.dump_dir=''", "dump_dir=''"),
    ("algorithm.atpo.dumpdir=x", "Did you mean algorithm.atpo.dump_dir"),
    ("algorithm.atpo=tree", "algorithm.atpo='tree'", "a group of settings"),
    ("algorithm.atpo=[tree]", "a group of settings"),
    # what is learnt from
    ("algorithm.adv_estimator=gae", "adv_estimator=gae cannot work", "atpo, a2tgpo, grpo", "only sum a row"),
    ("algorithm.adv_estimator=reinforce_plus_plus", "cannot work", "reinforce_plus_plus_baseline"),
    ("algorithm.adv_estimator=remax", "adv_estimator=remax cannot work"),
    ("algorithm.adv_estimator=optimal_token_baseline", "optimal_token_baseline cannot work"),
    ("algorithm.adv_estimator=tir_optimal_token_baseline", "tir_optimal_token_baseline cannot work"),
    ("algorithm.adv_estimator=gdpo", "adv_estimator=gdpo cannot work"),
    ("algorithm.adv_estimator=atop", "Did you mean atpo?"),
    ("algorithm.adv_estimator=null", "adv_estimator=None cannot work"),
    ("algorithm.use_kl_in_reward=true", "read as turn values", "use_kl_loss=True"),
    (f"{A}.policy_loss.loss_mode=aptpo", "loss_mode=aptpo cannot work", "Did you mean atpo?"),
    (f"{A}.policy_loss.loss_mode=GSPO", "expected one of", "gspo"),
    (f"{A}.loss_agg_mode=seq-mean", "loss_agg_mode=seq-mean cannot work", "Did you mean "),
    (f"{A}.clip_ratio_low=-0.1", "clip_ratio_low=-0.1 cannot work", "e.g. 0.003"),
    (f"{A}.clip_ratio_low=1.5", "clip_ratio_low=1.5 cannot work"),
    (f"{A}.clip_ratio_high=-0.004", "clip_ratio_high=-0.004 cannot work"),
    (f"{A}.clip_ratio_low=narrow", "expected a finite number"),
    (f"{A}.clip_ratio_high=.nan", "expected a finite number"),
    ((f"{A}.clip_ratio_low=0", f"{A}.clip_ratio_high=0"), "the clip range is empty"),
    ((f"{A}.clip_ratio_low=null", f"{A}.clip_ratio=-1"), "clip_ratio=-1 cannot work"),
    ("algorithm.rollout_correction.rollout_rs=token_k1", "cuts turns in two", "seq_mean_k1"),
    ("algorithm.rollout_correction.rollout_rs='seq_mean_k1,token_k3'", "cuts turns in two"),
    (("distillation.enabled=true", f"{D}=false"), f"{D}=False", "teacher's loss alone", "distillation.enabled=False"),
    # whether anything is learnt
    (f"{A}.optim.lr=0", f"{A}.optim.lr=0 cannot work", "e.g. 1e-6"),
    (f"{A}.optim.lr=-1e-6", "optim.lr=-1e-06 cannot work"),
    (f"{A}.optim.lr=.nan", "optim.lr=nan cannot work", "finite number"),
    (f"{A}.optim.lr=fast", "expected a finite number"),
    (f"{A}.ppo_epochs=0", "no batch would be trained on"),
    (f"{A}.grad_clip=0", "gradients would be scaled to nothing"),
    (f"{A}.clip_ratio_c=0.5", "clip_ratio_c=0.5 cannot work", "above the ratio 1"),
    (f"{A}.entropy_coeff=.nan", "entropy_coeff=nan cannot work"),
    (f"{A}.kl_loss_coef=.inf", "kl_loss_coef=inf cannot work"),
    (f"{A}.ppo_mini_batch_size=0", "no mini-batch would hold a row"),
    ("data.train_batch_size=0", "no step would have a prompt"),
    ("data.train_batch_size=-8", "no step would have a prompt"),
    ("data.max_prompt_length=0", "every prompt would be too long"),
    ("trainer.total_training_steps=0", "the run would end without a step"),
    ("trainer.total_epochs=0", "the run would end without a step"),
    ("trainer.critic_warmup=1000", "critic_warmup=1000 cannot work", "set 0"),
    (f"{R}.agent.num_workers=0", "nobody would run the agent loop"),
    (f"{MT}.max_parallel_calls=0", "no tool would ever be called"),
    ("algorithm.norm_adv_by_std_in_grpo=maybe", "expected True or False"),
    # how it is sampled
    (f"{R}.n=5", f"{R}.n=5 cannot work", "6 + 2 * 3 = 12", f"set {R}.n=12"),
    (f"{R}.n=null", f"set {R}.n=12"),
    (f"{R}.temperature=0", "temperature=0 cannot work", "e.g. 1.0"),
    (f"{R}.temperature=-1", "temperature=-1 cannot work"),
    (f"{R}.temperature=1e-6", "temperature=1e-06 cannot work"),
    (f"{R}.temperature=.nan", "temperature=nan cannot work", "finite number"),
    (f"{R}.temperature=hot", "temperature=hot cannot work", "finite number"),
    (f"{R}.temperature=null", "temperature=None cannot work"),
    (f"{R}.temperature=[1.0]", "expected a finite number"),
    (f"{R}.top_k=1", "top_k=1 cannot work", "set -1"),
    (f"{R}.top_k=few", "expected an integer"),
    (f"{R}.top_p=0", "top_p=0 cannot work"),
    (f"{R}.top_p=1e-9", "top_p=1e-09 cannot work", "near 0 is greedy"),
    (f"{R}.top_p=1.5", "top_p=1.5 cannot work"),
    (f"{R}.do_sample=false", "do_sample=False cannot work"),
    (f"{R}.calculate_log_probs=false", f"set {R}.calculate_log_probs=True"),
    (f"{R}.full_determinism=true", "the same seed"),
    (f"{R}.ignore_eos=true", "no turn would end"),
    # how long it may be
    (f"{MT}.max_assistant_turns=1", "max_assistant_turns=1 cannot work", "at least 2"),
    (f"{MT}.max_assistant_turns=0", "or null for no limit"),
    (f"{MT}.max_assistant_turns=-4", "max_assistant_turns=-4"),
    (f"{MT}.max_assistant_turns=two", "expected an integer"),
    (f"{MT}.max_user_turns=0", "max_user_turns=0 cannot work"),
    (f"{MT}.max_tool_response_length=0", "every observation would be empty"),
    ("data.max_response_length=4", "data.max_response_length=4 cannot work", "two turns"),
    ("data.max_response_length=-1", "two turns"),
    (f"{R}.response_length=3", f"{R}.response_length=3 cannot work"),
    # where it runs
    ("trainer.use_v1=false", "set trainer.use_v1=True"),
    ("trainer.v1.trainer_mode=asnyc", "expected one of sync, colocate_async, separate_async"),
    ("trainer.v1.trainer_mode=colocate", "Did you mean colocate_async?"),
    ("reward.reward_model.enable=true", "enable_resource_pool=True"),
    # loops and tools
    (f"{R}.agent.default_agent_loop=tool_agnet", "Did you mean tool_agent?"),
    (f"{R}.agent.default_agent_loop=mine", "or another name that", "agent_loop_config_path"),
    (f"{R}.agent.agent_loop_config_path=/no/loops.yaml", "there is no such file"),
    (f"{MT}.tool_config_path=/no/tools.yaml", "tool_config_path=/no/tools.yaml", "there is no such file"),
    (f"{MT}.function_tool_path=/no/tools.py", "function_tool_path=/no/tools.py", "there is no such file"),
    (f"{MT}.tool_config_path=null", "without tools it has one turn only"),
    (f"{MT}.format=hermse", "format=hermse cannot work", "Did you mean hermes?"),
]


IG = "algorithm.atpo.information_gain"
BAD_GAINS = [
    (f"{R}.name=sglang", f"{R}.name=sglang cannot work", "no other was tried", "set vllm"),
    ("trainer.v1.trainer_mode=colocate_async", "trainer_mode=colocate_async cannot work", "set sync"),
    (f"{R}.logprobs_mode=raw_logits", "logprobs_mode=raw_logits cannot work", "set processed_logprobs"),
    (f"{A}.policy_loss.loss_mode=atpo", f"{IG}.clip=0.3 cannot work", "loss_mode=a2tgpo, or clip=0"),
    (f"{A}.policy_loss.loss_mode=vanilla", f"{IG}.clip=0.3 cannot work"),
    (f"{C}.backup=child_softmax", f"{C}.backup=child_softmax cannot work", "set leaf_mean"),
    (f"{C}.advantage=diff_parent", f"{C}.advantage=diff_parent cannot work", "set value"),
    (f"{C}.contexts=merged", "contexts=merged cannot work", "set separate"),
    (f"{C}.tool_rewards=1", f"{C}.tool_rewards=1.0 cannot work", "set 0"),
    ("algorithm.adv_estimator=atpo", f"{A}.policy_loss.loss_mode=a2tgpo cannot work", "adv_estimator=a2tgpo"),
    ("algorithm.use_kl_in_reward=true", "read as turn values", "use_kl_loss=True"),
    (f"{R}.agent.agent_loop_manager_class=null", "agent_loop_manager_class=None cannot work", "+atpo=a2tgpo"),
    (f"{A}.clip_ratio_low=-0.1", "clip_ratio_low=-0.1 cannot work", "e.g. 0.003"),
    ("algorithm.rollout_correction.rollout_rs=token_k1", "cuts turns in two", "seq_mean_k1"),
    (f"{IG}.prompt=so", f"{IG}.prompt='so' cannot work", "{answer} in it once"),
    (f"{IG}.weight=.nan", f"{IG}.weight=nan"),
    (f"{IG}.alpha=1", f"{IG}.alpha is not a setting", "weight"),
    (f"{IG}.answer=null", f"{IG}.answer=None", "Where a data row holds the gold answer"),
]


@pytest.mark.parametrize(("settings", "words"), [(case[0], case[1:]) for case in BAD_GAINS], ids=str)
def test_what_information_gains_cannot_work_with_is_refused(settings, words):
    message = refusal(config_with(settings, preset="a2tgpo"))
    for word in words:
        assert word in message


def test_a_fixed_clip_range_can_be_had():
    CheckConfig().on_job_start(config_with(f"{A}.policy_loss.loss_mode=atpo", f"{IG}.clip=0", preset="a2tgpo"))


def test_the_table_is_long_enough():
    assert len(BAD) >= 100


@pytest.mark.fault("Start-up", "configurations that cannot work", "refused in the driver with setting and remedy")
@pytest.mark.parametrize(
    ("settings", *("words",)), [(case[0], case[1:]) for case in BAD], ids=lambda case: str(case)[:60]
)
def test_refused_with_setting_and_remedy(settings, words):
    message = refusal(config_with(*([settings] if isinstance(settings, str) else settings)))
    for word in words:
        assert word in message
