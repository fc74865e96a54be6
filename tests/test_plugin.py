"""Registration with verl, proven in fresh processes, because in this one it has happened already."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

REGISTERED = """
import verl
from hydra.core.config_store import ConfigStore
from verl.trainer.ppo import core_algos

assert core_algos.get_adv_estimator_fn("atpo").__module__ == "verl_atpo.method.estimator"
assert core_algos.get_policy_loss_fn("atpo").__module__ == "verl_atpo.method.loss"
from verl_atpo.method.scheme import known_schemes, own_estimators, own_losses
assert len(set(map(core_algos.get_adv_estimator_fn, own_estimators()))) == len(own_estimators())
assert len(set(map(core_algos.get_policy_loss_fn, own_losses()))) == len(own_losses())
store = ConfigStore.instance()
names = ["chain.yaml", "paper.yaml", "tree.yaml", "unbiased.yaml"]
for kind in known_schemes().values():
    names += [f"{name}.yaml" for name in kind.presets()]
assert store.list("atpo") == sorted(names), store.list("atpo")
assert store.list("platform") == ["cpu.yaml"]
"""


def run_python(code: str, *, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=check,
        timeout=300,
    )


def test_registration_is_light():
    code = """
    import sys
    import verl
    import verl.trainer.ppo.core_algos
    print(*sys.modules)
    """
    without = set(run_python(code, VERL_USE_EXTERNAL_PLUGINS="none").stdout.split())
    added = set(run_python(code, VERL_USE_EXTERNAL_PLUGINS="atpo").stdout.split()) - without
    assert "verl_atpo.plugin" in added
    # hydra parses with antlr4; verl's rollout imports pydantic as well; the rest is the standard library
    pydantic = {"pydantic", "pydantic_core", "annotated_types", "typing_inspection"}
    allowed = {"verl_atpo", "hydra", "antlr4", *pydantic, *sys.stdlib_module_names}
    rewards = {"verl.trainer.ppo.reward", "verl.utils.reward_score"}  # of verl itself, and light
    assert {name.split(".")[0] for name in added - rewards} <= allowed


def test_import_verl_alone_registers_everything_and_doing_it_again_changes_nothing():
    run_python(REGISTERED + "\nfrom verl_atpo.plugin import register\nregister()\n" + REGISTERED)


ANOTHER_VERL = """
import importlib.metadata
import verl_atpo.seams.places as seams

version = importlib.metadata.version
importlib.metadata.version = lambda name: "9.9.9" if name == "verl" else version(name)
seams.SEAMS[seams.Feature.METHOD] += MORE
import verl
from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY
"""


def test_a_verl_whose_seams_moved_is_refused_loudly_though_verl_hides_it():
    more = "MORE = (seams.Seam('verl.trainer.ppo.core_algos:gone', 'moved'),)"
    code = ANOTHER_VERL.replace("seams.SEAMS[", f"{more}\nseams.SEAMS[")
    stderr = run_python(f"{code}assert 'atpo' not in ADV_ESTIMATOR_REGISTRY").stderr
    assert "verl_atpo could not be registered" in stderr
    assert "verl 9.9.9 is installed" in stderr and "core_algos:gone (moved): it is not there" in stderr


def test_a_verl_that_only_got_newer_is_taken():
    code = ANOTHER_VERL.replace("+= MORE", "+= ()")
    run_python(f"{code}assert 'atpo' in ADV_ESTIMATOR_REGISTRY")


def test_a_policy_loss_of_the_same_name_is_not_overwritten(monkeypatch):
    from verl.trainer.ppo import core_algos

    from verl_atpo import plugin

    monkeypatch.setitem(core_algos.POLICY_LOSS_REGISTRY, "atpo", lambda **kwargs: None)
    with pytest.raises(RuntimeError, match="registered already"):
        plugin.register()


def test_registered_inside_a_ray_worker():
    run_python(
        f"""
        import ray
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)

        @ray.remote
        def registered():
            exec({REGISTERED!r})
            return True

        assert ray.get(registered.remote())
        ray.shutdown()
        """
    )
