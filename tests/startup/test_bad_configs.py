"""More than a hundred configurations that cannot work: each is refused with setting, value and a remedy."""

from __future__ import annotations

import pytest

from tests.assets.configs import check_refusal, config_with, refusal
from verl_atpo.startup.checks import apply_rules
from verl_atpo.startup.driver import CheckConfig
from verl_atpo.startup.presets import ATPO_PRESETS
from verl_atpo.startup.rules import learning
from verl_atpo.startup.rules.rule import Run, Stage

R, A, MT = "actor_rollout_ref.rollout", "actor_rollout_ref.actor", "actor_rollout_ref.rollout.multi_turn"
D = "distillation.distillation_loss.use_task_rewards"
X, C, G, T = (f"algorithm.atpo.{group}" for group in ("expansion", "credit", "growth", "tools"))


def test_the_config_that_the_bad_ones_differ_from_is_good():
    for preset in ATPO_PRESETS:
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
    (f"{X}.initial_chains=0", f"{X}.initial_chains=0"),
    (f"{X}.initial_chains=-3", f"{X}.initial_chains=-3"),
    (f"{X}.initial_chains=2.5", f"{X}.initial_chains=2.5"),
    (f"{X}.initial_chains=many", f"{X}.initial_chains='many'"),
    (f"{X}.initial_chains=null", f"{X}.initial_chains=None"),
    (f"{X}.initial_chains=true", f"{X}.initial_chains=True"),
    (f"{X}.initial_chains=100000", f"{X}.initial_chains=100000"),
    (f"{X}.branches_per_round=0", f"{X}.branches_per_round=0"),
    (f"{X}.branches_per_round=-1", f"{X}.branches_per_round=-1"),
    (f"{X}.branches_per_round=1e9", f"{X}.branches_per_round=1000000000.0"),
    (f"{X}.rounds=-1", f"{X}.rounds=-1"),
    (f"{X}.rounds=5000", f"{X}.rounds=5000"),
    (f"{X}.penalty=-0.1", f"{X}.penalty=-0.1"),
    (f"{X}.penalty=.nan", f"{X}.penalty=nan"),
    (f"{X}.penalty=.inf", f"{X}.penalty=inf"),
    (f"{X}.penalty='0.05'", f"{X}.penalty='0.05'"),
    (f"{X}.penalty_counts=sibling", f"{X}.penalty_counts='sibling'"),
    (f"{X}.strategy=best", f"{X}.strategy='best'"),
    (f"{X}.spares=3", f"{X}.spares=3"),
    (f"{X}.strategy=entropie", f"{X}.strategy='entropie'"),
    (f"{X}.strategy=7", f"{X}.strategy=7"),
    (f"{X}.round=2", f"{X}.round"),
    (f"{X}=deep", f"{X}='deep'"),
    # credit
    (f"{C}.backup=mean", f"{C}.backup='mean'"),
    (f"{C}.backup=child_softmx", f"{C}.backup='child_softmx'"),
    (f"{C}.advantage=values", f"{C}.advantage='values'"),
    (f"{C}.advantage=null", f"{C}.advantage=None"),
    (f"{C}.normalize=std", f"{C}.normalize='std'"),
    (f"{C}.normalise=center", f"{C}.normalise"),
    (f"{C}.shared_turns=twice", f"{C}.shared_turns='twice'"),
    (f"{C}.contexts=merge", f"{C}.contexts='merge'"),
    ((f"{C}.contexts=states", f"{C}.advantage=value"), f"{C}.contexts='states'"),
    (
        (f"{C}.contexts=states", f"{C}.advantage=diff_parent", f"{C}.scheme=null", "algorithm.adv_estimator=grpo"),
        f"{C}.contexts=states",
    ),
    ((f"{C}.contexts=merged", f"{R}.agent.agent_loop_manager_class=null"), f"{C}.contexts=merged"),
    (f"{C}=[1,2]", f"{C}=[1, 2]"),
    # machines without GPU
    (("trainer.device=cpu", "actor_rollout_ref.model.lora_rank=8"), "actor_rollout_ref.model.lora_rank=8"),
    (
        ("trainer.device=cpu", "actor_rollout_ref.model.lora_adapter_path=/adapter"),
        "actor_rollout_ref.model.lora_adapter_path=/adapter",
    ),
    # growth, watch, tools, dump
    (f"{G}.max_bugs=0", f"{G}.max_bugs=0"),
    ("algorithm.atpo.watch.limit_s=0", "algorithm.atpo.watch.limit_s=0"),
    ("algorithm.atpo.watch.warn_s=null", "algorithm.atpo.watch.warn_s=None"),
    ("algorithm.atpo.watch.engine_s=-1", "algorithm.atpo.watch.engine_s=-1"),
    ("algorithm.atpo.watch.limit=5", "algorithm.atpo.watch.limit"),
    (f"{G}.max_regrows=-1", f"{G}.max_regrows=-1"),
    (f"{G}.max_regrows=1000000", f"{G}.max_regrows=1000000"),
    (f"{G}.regrow_delay_s=-1", f"{G}.regrow_delay_s=-1"),
    (f"{G}.regrow_delay_s=1e9", f"{G}.regrow_delay_s=1000000000.0"),
    (f"{G}.regrow=3", f"{G}.regrow"),
    (f"{T}.timeout_s=0", f"{T}.timeout_s=0"),
    (f"{T}.timeout_s=.nan", f"{T}.timeout_s=nan"),
    (f"{T}.timeout_s=1e12", f"{T}.timeout_s=1000000000000.0"),
    (f"{T}.timeout=5", f"{T}.timeout"),
    (f"{T}.retries=-2", f"{T}.retries=-2"),
    (f"{T}.retries=1000000", f"{T}.retries=1000000"),
    (f"{T}.retry_delay_s=-0.5", f"{T}.retry_delay_s=-0.5"),
    (f"{T}.max_calls=0", f"{T}.max_calls=0"),
    (f"{T}.concurrency=0", f"{T}.concurrency=0"),
    (f"{T}.concurrency=lots", f"{T}.concurrency='lots'"),
    (f"{T}.max_observation_tokens=-1", f"{T}.max_observation_tokens=-1"),
    (f"{T}.observation_cut=end", f"{T}.observation_cut='end'"),
    (f"{T}.on_outage=ignore", f"{T}.on_outage='ignore'"),
    (f"{T}.memoize=always", f"{T}.memoize='always'"),
    (f"{T}.memo_size=0", f"{T}.memo_size=0"),
    ("algorithm.atpo.dump_dir=5", "algorithm.atpo.dump_dir=5"),
    ("algorithm.atpo.dump_dir=/proc/trees", "algorithm.atpo.dump_dir=/proc/trees"),
    ("algorithm.atpo.dump_dir=/etc/hostname/trees", "algorithm.atpo.dump_dir=/etc/hostname/trees"),
    ("algorithm.atpo.dump_dir=''", "algorithm.atpo.dump_dir=''"),
    ("algorithm.atpo.dumpdir=x", "algorithm.atpo.dumpdir"),
    ("algorithm.atpo=tree", "algorithm.atpo='tree'"),
    ("algorithm.atpo=[tree]", "algorithm.atpo=['tree']"),
    # what is learnt from
    ("algorithm.adv_estimator=gae", "algorithm.adv_estimator=gae"),
    ("algorithm.adv_estimator=reinforce_plus_plus", "algorithm.adv_estimator=reinforce_plus_plus"),
    ("algorithm.adv_estimator=remax", "algorithm.adv_estimator=remax"),
    ("algorithm.adv_estimator=optimal_token_baseline", "algorithm.adv_estimator=optimal_token_baseline"),
    ("algorithm.adv_estimator=tir_optimal_token_baseline", "algorithm.adv_estimator=tir_optimal_token_baseline"),
    ("algorithm.adv_estimator=gdpo", "algorithm.adv_estimator=gdpo"),
    ("algorithm.adv_estimator=atop", "algorithm.adv_estimator=atop"),
    ("algorithm.adv_estimator=null", "algorithm.adv_estimator=None"),
    ("algorithm.use_kl_in_reward=true", "algorithm.use_kl_in_reward=True"),
    (f"{A}.policy_loss.loss_mode=aptpo", f"{A}.policy_loss.loss_mode=aptpo"),
    (f"{A}.policy_loss.loss_mode=GSPO", f"{A}.policy_loss.loss_mode=GSPO"),
    (f"{A}.loss_agg_mode=seq-mean", f"{A}.loss_agg_mode=seq-mean"),
    (f"{A}.clip_ratio_low=-0.1", f"{A}.clip_ratio_low=-0.1"),
    (f"{A}.clip_ratio_low=1.5", f"{A}.clip_ratio_low=1.5"),
    (f"{A}.clip_ratio_high=-0.004", f"{A}.clip_ratio_high=-0.004"),
    (f"{A}.clip_ratio_low=narrow", f"{A}.clip_ratio_low=narrow"),
    (f"{A}.clip_ratio_high=.nan", f"{A}.clip_ratio_high=nan"),
    ((f"{A}.clip_ratio_low=0", f"{A}.clip_ratio_high=0"), f"{A}.clip_ratio_low=0"),
    ((f"{A}.clip_ratio_low=null", f"{A}.clip_ratio=-1"), f"{A}.clip_ratio=-1"),
    ("algorithm.rollout_correction.rollout_rs=token_k1", "algorithm.rollout_correction.rollout_rs=token_k1"),
    (
        "algorithm.rollout_correction.rollout_rs='seq_mean_k1,token_k3'",
        "algorithm.rollout_correction.rollout_rs=seq_mean_k1,token_k3",
    ),
    (("distillation.enabled=true", f"{D}=false"), f"{D}=False"),
    # whether anything is learnt
    (f"{A}.optim.lr=0", f"{A}.optim.lr=0"),
    (f"{A}.optim.lr=-1e-6", f"{A}.optim.lr=-1e-06"),
    (f"{A}.optim.lr=.nan", f"{A}.optim.lr=nan"),
    (f"{A}.optim.lr=fast", f"{A}.optim.lr=fast"),
    (f"{A}.ppo_epochs=0", f"{A}.ppo_epochs=0"),
    (f"{A}.grad_clip=0", f"{A}.grad_clip=0"),
    (f"{A}.clip_ratio_c=0.5", f"{A}.clip_ratio_c=0.5"),
    (f"{A}.entropy_coeff=.nan", f"{A}.entropy_coeff=nan"),
    (f"{A}.kl_loss_coef=.inf", f"{A}.kl_loss_coef=inf"),
    (f"{A}.ppo_mini_batch_size=0", f"{A}.ppo_mini_batch_size=0"),
    ("data.train_batch_size=0", "data.train_batch_size=0"),
    ("data.train_batch_size=-8", "data.train_batch_size=-8"),
    ("data.max_prompt_length=0", "data.max_prompt_length=0"),
    ("trainer.total_training_steps=0", "trainer.total_training_steps=0"),
    ("trainer.total_epochs=0", "trainer.total_epochs=0"),
    ("trainer.critic_warmup=1000", "trainer.critic_warmup=1000"),
    (f"{R}.agent.num_workers=0", f"{R}.agent.num_workers=0"),
    (f"{MT}.max_parallel_calls=0", f"{MT}.max_parallel_calls=0"),
    ("algorithm.norm_adv_by_std_in_grpo=maybe", "algorithm.norm_adv_by_std_in_grpo=maybe"),
    # values that verl reads late
    ("trainer.n_gpus_per_node=0", "trainer.n_gpus_per_node=0"),
    ("trainer.nnodes=0", "trainer.nnodes=0"),
    ("trainer.test_freq=often", "trainer.test_freq=often"),
    ("trainer.val_before_train='no'", "trainer.val_before_train=no"),
    ("data.shuffle='False'", "data.shuffle=False"),
    ("data.truncation=none", "data.truncation=none"),
    ("data.seed=abc", "data.seed=abc"),
    ("data.train_max_samples=0", "data.train_max_samples=0"),
    (f"{R}.val_kwargs.n=0", f"{R}.val_kwargs.n=0"),
    (f"{R}.max_num_seqs=0", f"{R}.max_num_seqs=0"),
    (f"{R}.gpu_memory_utilization=90", f"{R}.gpu_memory_utilization=90"),
    (f"{R}.tensor_model_parallel_size=3", f"{R}.tensor_model_parallel_size=3"),
    (f"{R}.dtype=bf17", f"{R}.dtype=bf17"),
    (f"{MT}.tool_response_truncate_side=mid", f"{MT}.tool_response_truncate_side=mid"),
    # what the optimizer would do
    (f"{A}.optim.lr=10", f"{A}.optim.lr=10"),
    (f"{A}.optim.lr=0.1", f"{A}.optim.lr=0.1"),
    (f"{A}.optim.weight_decay=-1", f"{A}.optim.weight_decay=-1"),
    (f"{A}.optim.betas=[2,3]", f"{A}.optim.betas=[2, 3]"),
    (f"{A}.optim.betas=0.9", f"{A}.optim.betas=0.9"),
    (f"{A}.optim.optimizer=AdamX", f"{A}.optim.optimizer=AdamX"),
    (f"{A}.optim.optimizer_impl=torchh.optim", f"{A}.optim.optimizer=AdamW"),
    (f"{A}.optim.clip_grad=0", f"{A}.optim.clip_grad=0"),
    (f"{A}.optim.lr_scheduler_type=cosin", f"{A}.optim.lr_scheduler_type=cosin"),
    (f"{A}.optim.min_lr_ratio=5", f"{A}.optim.min_lr_ratio=5"),
    (f"{A}.optim.lr_warmup_steps_ratio=2", f"{A}.optim.lr_warmup_steps_ratio=2"),
    (f"{A}.kl_loss_coef=-1", f"{A}.kl_loss_coef=-1"),
    (f"{A}.strategy=fdsp", f"{A}.strategy=fdsp"),
    (("trainer.device=cpu", f"{A}.strategy=fsdp"), f"{A}.strategy=fsdp"),
    # what verl or the engine would refuse after its start
    ("data.val_batch_size=0", "data.val_batch_size=0"),
    ("data.dataloader_num_workers=-1", "data.dataloader_num_workers=-1"),
    ("reward.num_workers=0", "reward.num_workers=0"),
    ("trainer.logger=null", "trainer.logger=None"),
    (("trainer.logger=[file]", "trainer.experiment_name=a/b"), "trainer.experiment_name=a/b"),
    (("trainer.logger=[file]", "trainer.project_name=null"), "trainer.project_name=None"),
    (("trainer.val_only=true", "trainer.val_before_train=false"), "trainer.val_only=True"),
    (f"{A}.checkpoint.save_contents=[modle]", f"{A}.checkpoint.save_contents=['modle']"),
    (f"{R}.mode=sync", f"{R}.mode=sync"),
    ((f"{R}.max_num_batched_tokens=16", f"{R}.max_num_seqs=1024"), f"{R}.max_num_batched_tokens=16"),
    (f"{R}.prompt_length=3", f"{R}.prompt_length=3"),
    (f"{R}.val_kwargs.temperature=-1", f"{R}.val_kwargs.temperature=-1"),
    (f"{R}.val_kwargs.top_p=0", f"{R}.val_kwargs.top_p=0"),
    (f"{R}.val_kwargs.top_k=-5", f"{R}.val_kwargs.top_k=-5"),
    (f"{R}.top_k=-5", f"{R}.top_k=-5"),
    ("trainer.balance_batch=1", "trainer.balance_batch=1"),
    # how it is sampled
    (f"{R}.temperature=100", f"{R}.temperature=100"),
    (f"{R}.n=5", f"{R}.n=5"),
    (f"{R}.n=null", f"{R}.n=None"),
    (f"{R}.temperature=0", f"{R}.temperature=0"),
    (f"{R}.temperature=-1", f"{R}.temperature=-1"),
    (f"{R}.temperature=1e-6", f"{R}.temperature=1e-06"),
    (f"{R}.temperature=.nan", f"{R}.temperature=nan"),
    (f"{R}.temperature=hot", f"{R}.temperature=hot"),
    (f"{R}.temperature=null", f"{R}.temperature=None"),
    (f"{R}.temperature=[1.0]", f"{R}.temperature=[1.0]"),
    (f"{R}.top_k=1", f"{R}.top_k=1"),
    (f"{R}.top_k=few", f"{R}.top_k=few"),
    (f"{R}.top_p=0", f"{R}.top_p=0"),
    (f"{R}.top_p=1e-9", f"{R}.top_p=1e-09"),
    (f"{R}.top_p=1.5", f"{R}.top_p=1.5"),
    (f"{R}.do_sample=false", f"{R}.do_sample=False"),
    (f"{R}.calculate_log_probs=false", f"{R}.calculate_log_probs=False"),
    (f"{R}.full_determinism=true", f"{R}.full_determinism=True"),
    (f"{R}.ignore_eos=true", f"{R}.ignore_eos=True"),
    # how long it may be
    (f"{MT}.max_assistant_turns=1", f"{MT}.max_assistant_turns=1"),
    (f"{MT}.max_assistant_turns=0", f"{MT}.max_assistant_turns=0"),
    (f"{MT}.max_assistant_turns=-4", f"{MT}.max_assistant_turns=-4"),
    (f"{MT}.max_assistant_turns=two", f"{MT}.max_assistant_turns=two"),
    (f"{MT}.max_user_turns=0", f"{MT}.max_user_turns=0"),
    (f"{MT}.max_tool_response_length=0", f"{MT}.max_tool_response_length=0"),
    ("data.max_response_length=4", "data.max_response_length=4"),
    ("data.max_response_length=-1", "data.max_response_length=-1"),
    (f"{R}.response_length=3", f"{R}.response_length=3"),
    # where it runs
    ("trainer.use_v1=false", "trainer.use_v1=False"),
    ("trainer.v1.trainer_mode=asnyc", "trainer.v1.trainer_mode=asnyc"),
    ("trainer.v1.trainer_mode=colocate", "trainer.v1.trainer_mode=colocate"),
    ("reward.reward_model.enable=true", "reward.reward_model.enable=True"),
    # loops and tools
    (f"{R}.agent.default_agent_loop=tool_agnet", f"{R}.agent.default_agent_loop=tool_agnet"),
    (f"{R}.agent.default_agent_loop=mine", f"{R}.agent.default_agent_loop=mine"),
    (f"{R}.agent.agent_loop_config_path=/no/loops.yaml", f"{R}.agent.agent_loop_config_path=/no/loops.yaml"),
    (f"{MT}.tool_config_path=/no/tools.yaml", f"{MT}.tool_config_path=/no/tools.yaml"),
    (f"{MT}.function_tool_path=/no/tools.py", f"{MT}.function_tool_path=/no/tools.py"),
    (f"{MT}.tool_config_path=null", f"{R}.agent.default_agent_loop=tool_agent"),
    (f"{MT}.format=hermse", f"{MT}.format=hermse"),
]


def test_the_table_is_long_enough():
    assert len(BAD) >= 100


@pytest.mark.fault("Start-up", "configurations that cannot work", "refused in the driver with setting and remedy")
@pytest.mark.parametrize(("settings", "refused"), BAD, ids=lambda case: str(case)[:60])
def test_refused_with_setting_and_remedy(settings, refused):
    check_refusal(settings, refused)


@pytest.mark.parametrize("settings", [(f"{R}.temperature=0", f"{R}.n=8"), (f"{R}.temperature=100",)])
def test_chains_that_cannot_differ_or_mean_nothing_are_refused(settings):
    check_refusal(settings, settings[0], preset="chain")


LEGAL_BUT_ODD = {
    (f"{A}.optim.lr=0.05",): "destroys most models",
    (f"{A}.optim.lr_warmup_steps=100", "trainer.total_training_steps=50"): "never reaches",
    (f"{A}.grad_clip=0.5",): f"set {A}.optim.clip_grad=0.5",
    (f"{A}.entropy_coeff=100",): "outweigh",
    (f"{A}.ppo_epochs=1000",): "1000 times",
    (f"{R}.val_kwargs.n=4", f"{R}.val_kwargs.do_sample=false"): "all be the same",
    (f"{A}.use_dynamic_bsz=true", f"{A}.ppo_max_token_len_per_gpu=16"): "the run ends when one has more than 16",
    (f"{A}.checkpoint.save_contents=[extra]", "trainer.save_freq=5"): "hold no weights",
}


@pytest.mark.parametrize("settings", LEGAL_BUT_ODD, ids=lambda each: each[0])
def test_legal_but_odd_numbers_are_warned_of_once(settings):
    warned: list[str] = []
    apply_rules(Run(config_with(*settings)), Stage.CONFIG, warned.append)
    assert [LEGAL_BUT_ODD[settings] in each for each in warned].count(True) == 1, warned
    unchanged: list[str] = []
    apply_rules(Run(config_with()), Stage.CONFIG, unchanged.append)
    assert not any(LEGAL_BUT_ODD[settings] in each for each in unchanged)


def test_one_chain_has_no_baseline():
    (rule,) = learning.LATER
    assert "one has no other" in str(rule.message(Run(config_with(f"{R}.n=1", preset="chain"))))
    assert rule.message(Run(config_with(f"{R}.n=2", preset="chain"))) is None


@pytest.mark.parametrize(
    ("settings", "near"),
    [
        (f"{X}.penalty_counts=sibling", "siblings"),
        (f"{X}.strategy=entropie", "entropy"),
        (f"{X}.round=2", f"{X}.rounds"),
        (f"{C}.normalise=center", f"{C}.normalize"),
        (f"{G}.regrow=3", f"{G}.max_regrows"),
        (f"{T}.timeout=5", f"{T}.timeout_s"),
        ("algorithm.adv_estimator=atop", "atpo"),
        (f"{A}.policy_loss.loss_mode=aptpo", "atpo"),
        ("trainer.v1.trainer_mode=colocate", "colocate_async"),
        (f"{R}.agent.default_agent_loop=tool_agnet", "tool_agent"),
        (f"{MT}.format=hermse", "hermes"),
    ],
)
def test_a_misspelt_setting_or_value_is_answered_with_the_nearest(settings, near):
    assert f"Did you mean {near}?" in refusal(config_with(settings))
