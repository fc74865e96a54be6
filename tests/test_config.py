"""Settings under ``algorithm.atpo``: what is read, and what every refusal names."""

from __future__ import annotations

import dataclasses

import pytest

from verl_atpo.config import (
    AdvantageMode,
    AtpoConfig,
    Backup,
    Budget,
    ConfigError,
    Contexts,
    CreditConfig,
    ExpansionConfig,
    GrowthConfig,
    Memoize,
    Normalize,
    ObservationCut,
    OnOutage,
    Penalty,
    Schedule,
    SharedTurns,
    ToolConfig,
    WatchConfig,
)
from verl_atpo.method.scheme import settings_groups


def test_defaults_and_nothing_at_all():
    assert AtpoConfig.from_mapping(None) == AtpoConfig.from_mapping({}) == AtpoConfig()


def test_every_setting_is_read():
    settings = {
        "expansion": {
            "initial_chains": 10,
            "branches_per_round": 6,
            "rounds": 2,
            "penalty": 1,
            "penalty_counts": "siblings",
            "strategy": "random",
            "schedule": "continuous",
            "start_after": 1,
            "in_flight": 12,
            "budget": "adaptive",
            "success": 2,
            "spares": 8,
            "first_at": 0.25,
            "last_at": 1,
        },
        "credit": {
            "backup": "leaf_mean",
            "advantage": "diff_parent",
            "normalize": "center",
            "shared_turns": "once",
            "weights": "per_leaf",
            "tool_rewards": 1,
            "contexts": "merged",
            "mute_above": 2,
            "baseline_weights": True,
            "scheme": None,
        },
        "growth": {"max_regrows": 0, "regrow_delay_s": 2, "max_bugs": 1},
        "tools": {
            "timeout_s": 5,
            "retries": 0,
            "retry_delay_s": 1,
            "max_calls": 4,
            "max_consecutive_invalid_calls": 3,
            "concurrency": None,
            "max_observation_tokens": 100,
            "observation_cut": "middle",
            "on_outage": "observe",
            "memoize": "tree",
            "memo_size": 10,
        },
        "dump_dir": "trees",
        "dump_every": 10,
        "dump_max": 4,
        "log_trees": 2,
        "watch": {"warn_s": 5, "limit_s": None, "engine_s": 60},
        "extensions": ["json"],
    }
    config = AtpoConfig.from_mapping(settings)
    assert config == AtpoConfig(
        ExpansionConfig(
            10, 6, 2, 1.0, Penalty.SIBLINGS, "random", Schedule.CONTINUOUS, 1.0, 12, Budget.ADAPTIVE, 2.0, 8, 0.25, 1.0
        ),
        CreditConfig(
            Backup.LEAF_MEAN,
            AdvantageMode.DIFF_PARENT,
            Normalize.CENTER,
            SharedTurns.ONCE,
            tool_rewards=1.0,
            contexts=Contexts.MERGED,
            mute_above=2.0,
            baseline_weights=True,
        ),
        GrowthConfig(0, 2.0, 1),
        ToolConfig(5.0, 0, 1.0, 4, None, 100, ObservationCut.MIDDLE, OnOutage.OBSERVE, Memoize.TREE, 10, 3),
        "trees",
        10,
        4,
        2,
        WatchConfig(5.0, None, 60.0),
        ("json",),
    )
    assert config.expansion.leaves == 22  # 10 + 2 * 6
    of_schemes = {name: dataclasses.asdict(kind()) for name, kind in settings_groups().items()}
    assert config.to_mapping() == settings | of_schemes
    assert isinstance(config.expansion.penalty, float)


def test_a_mapping_of_the_defaults_reads_back():
    assert AtpoConfig.from_mapping(AtpoConfig().to_mapping()) == AtpoConfig()


@pytest.mark.parametrize(
    ("settings", "setting", "remedy"),
    [
        ({"expand": {}}, "algorithm.atpo.expand is not a setting", "valid ones are: expansion, credit, growth"),
        ({"expansion": {"penalti": 0.1}}, "algorithm.atpo.expansion.penalti", "mean algorithm.atpo.expansion.penalty"),
        ({"credit": {"backup": "mean"}}, "algorithm.atpo.credit.backup='mean'", "child_softmax, child_mean, leaf_mean"),
        ({"credit": {"advantage": None}}, "algorithm.atpo.credit.advantage=None", "one of value, diff_parent"),
        (
            {"credit": {"contexts": "states"}},
            "algorithm.atpo.credit.contexts='states' cannot work: advantage=value",
            "set advantage=diff_localglobal or diff_parent, or contexts=separate",
        ),
        (
            {"credit": {"contexts": "states", "advantage": "diff_global"}},
            "algorithm.atpo.credit.contexts='states' cannot work: advantage=diff_global",
            "or contexts=separate",
        ),
        (
            {
                "credit": {
                    "contexts": "merged",
                    "weights": "split",
                    "backup": "child_mean",
                    "advantage": "diff_global",
                }
            },
            "algorithm.atpo.credit.contexts='merged' cannot work",
            "set contexts=separate, or weights=per_leaf",
        ),
        ({"credit": "value"}, "algorithm.atpo.credit='value'", "a group of settings (backup, advantage"),
        ({"expansion": {"rounds": 2.0}}, "algorithm.atpo.expansion.rounds=2.0", "expected int, got float"),
        ({"expansion": {"rounds": True}}, "algorithm.atpo.expansion.rounds=True", "expected int, got bool"),
        (
            {"expansion": {"rounds": -1}},
            "algorithm.atpo.expansion.rounds=-1",
            "at least 0. It is: L, expansion rounds; 0 leaves plain chains",
        ),
        ({"expansion": {"initial_chains": 0}}, "algorithm.atpo.expansion.initial_chains=0", "at least 1"),
        ({"expansion": {"branches_per_round": 0}}, "algorithm.atpo.expansion.branches_per_round=0", "set rounds=0"),
        ({"expansion": {"penalty": -0.1}}, "algorithm.atpo.expansion.penalty=-0.1", "at least 0"),
        ({"expansion": {"penalty": float("nan")}}, "algorithm.atpo.expansion.penalty=nan", "expected a finite number"),
        ({"expansion": {"penalty": "0.05"}}, "algorithm.atpo.expansion.penalty='0.05'", "expected float, got str"),
        ({"expansion": {"strategy": 3}}, "algorithm.atpo.expansion.strategy=3", "expected str, got int"),
        (
            {"expansion": {"schedule": "continous"}},
            "expansion.schedule='continous'",
            "one of rounds, continuous, stag",
        ),
        ({"expansion": {"start_after": 0}}, "algorithm.atpo.expansion.start_after=0", "a number above 0"),
        ({"expansion": {"start_after": 1.5}}, "algorithm.atpo.expansion.start_after=1.5", "a number of at most 1"),
        ({"expansion": {"in_flight": 0}}, "algorithm.atpo.expansion.in_flight=0", "an integer of at least 1 or null"),
        (
            {"expansion": {"schedule": "continuous", "strategy": "other_chains"}},
            "algorithm.atpo.expansion.schedule='continuous'",
            "set schedule=rounds",
        ),
        ({"growth": {"max_regrows": -1}}, "algorithm.atpo.growth.max_regrows=-1", "at least 0"),
        ({"growth": {"regrow_delay_s": -1}}, "algorithm.atpo.growth.regrow_delay_s=-1", "at least 0"),
        ({"tools": {"max_calls": 0}}, "algorithm.atpo.tools.max_calls=0", "an integer of at least 1 or null"),
        ({"tools": {"timeout_s": 0}}, "algorithm.atpo.tools.timeout_s=0", "a number above 0 or null. It is: Seconds"),
        ({7: 1}, "algorithm.atpo.7 is not a setting", "valid ones are"),
        ("all", "algorithm.atpo='all'", "a group of settings (expansion, credit"),
        ({"dump_dir": 5}, "algorithm.atpo.dump_dir=5", "expected str or null, got int"),
    ],
)
def test_refusals_name_setting_value_and_remedy(settings, setting, remedy):
    with pytest.raises(ConfigError) as refused:
        AtpoConfig.from_mapping(settings)
    assert setting in str(refused.value)
    assert remedy in str(refused.value)


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ValueError, match="greater than or equal to 1"):
        ExpansionConfig(initial_chains=0)
    with pytest.raises(ValueError, match="set rounds=0"):
        dataclasses.replace(ExpansionConfig(), branches_per_round=0)


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(ConfigError) as refused:
        AtpoConfig.from_mapping({"credit": "x" * 10_000})
    assert len(str(refused.value)) < 1000


def test_no_branches_are_fine_without_rounds():
    assert ExpansionConfig(initial_chains=4, branches_per_round=0, rounds=0).leaves == 4


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AtpoConfig().dump_dir = "elsewhere"
