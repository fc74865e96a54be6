"""Which Ray a run on the CPU platform uses."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from verl_atpo.platforms.cpu_preset import CPU_PRESET, register_resolver
from verl_atpo.platforms.own_ray import devices_per_node


@pytest.fixture(autouse=True)
def no_cluster_asked_for(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    register_resolver()


def config(*overrides: str):
    return OmegaConf.merge(OmegaConf.create(CPU_PRESET), OmegaConf.from_dotlist(list(overrides)))


def ray_init(*overrides: str):
    return config(*overrides).ray_kwargs.ray_init


def test_a_run_starts_a_ray_of_its_own_whatever_else_is_on_the_machine():
    settings = ray_init("trainer.n_gpus_per_node=2")
    assert (settings.address, settings.num_cpus, settings.num_gpus) == ("local", 32, 2)


@pytest.mark.parametrize(
    ("environment", "overrides", "address"),
    [
        ("192.0.2.1:6379", [], "192.0.2.1:6379"),
        ("auto", [], "auto"),
        (None, ["trainer.nnodes=2"], "auto"),
        ("192.0.2.1:6379", ["trainer.nnodes=2"], "192.0.2.1:6379"),
        (None, ["ray_kwargs.ray_init.address=192.0.2.1:6379"], "192.0.2.1:6379"),
    ],
)
def test_a_cluster_that_was_asked_for_is_joined_and_not_told_what_it_has(monkeypatch, environment, overrides, address):
    if environment:
        monkeypatch.setenv("RAY_ADDRESS", environment)
    settings = ray_init(*overrides)
    assert (settings.address, settings.num_cpus, settings.num_gpus) == (address, None, None)


def test_several_nodes_played_by_one_machine(monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert ray_init("trainer.nnodes=3", "trainer.n_gpus_per_node=2").num_gpus == 6


def test_a_separate_rollout_has_devices_of_its_own():
    rollout = ["actor_rollout_ref.rollout.nnodes=2", "actor_rollout_ref.rollout.n_gpus_per_node=3"]
    separate = ["trainer.v1.trainer_mode=separate_async", *rollout]
    assert ray_init(*separate).num_gpus == 1 + 2 * 3
    assert devices_per_node(config(*separate)) == 1 + 3
    assert ray_init(*rollout).num_gpus == 1  # nobody reads them in the other modes
