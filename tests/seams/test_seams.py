"""verl's seams: each is looked for in the installed verl and in another version, and each is seen to fail."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import open_dict

from tests.assets.configs import config_with, refusal
from tests.assets.other_verl import unpacked
from tests.assets.python_path import PYTHON_PATH, QUICK, ROOT
from verl_atpo.seams import places as seams
from verl_atpo.seams.check import SeamMissing, missing, problem_of, problems, require
from verl_atpo.seams.features import asked_for
from verl_atpo.seams.places import SEAMS, Feature, Seam
from verl_atpo.seams.versions import installed_version, tested_versions
from verl_atpo.startup.driver import REHEARSAL_ENV

ALL = [(feature, seam) for feature, own in SEAMS.items() for seam in own]
OLDER = "0.9.0"
PACKAGES = ("verl", "vllm", "transfer_queue")
UNLISTED = {"init"}
"""Used by verl itself where this package does."""


def name(value: object) -> str:
    return value.place if isinstance(value, Seam) else str(value.name)


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked(OLDER, tmp_path_factory.mktemp("verl"))


def test_every_feature_has_seams():
    assert set(SEAMS) == set(Feature) and len(ALL) >= 60
    assert len({seam.place for _, seam in ALL}) >= len(ALL) - 2  # two features may need the same one


def is_module(name: str) -> bool:
    """Return whether there is a file of a module of this name; nothing is imported."""
    spec = importlib.util.find_spec(name.partition(".")[0])
    assert spec is not None and spec.origin is not None
    path = Path(spec.origin).parent.joinpath(*name.split(".")[1:])
    return path.with_suffix(".py").is_file() or path.is_dir()


def imported() -> Iterator[tuple[str, str]]:
    """What the package imports from verl, vLLM and TransferQueue, modules by what is used of them; and where."""
    for path in (ROOT / "verl_atpo").rglob("*.py"):
        tree, modules = ast.parse(path.read_text()), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in PACKAGES:
                for alias in node.names:
                    if is_module(f"{node.module}.{alias.name}"):
                        modules[alias.asname or alias.name] = alias.name
                    else:
                        yield alias.name, path.name
            elif isinstance(node, ast.Import):
                modules |= {each.asname: each.name for each in node.names if each.name in PACKAGES and each.asname}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                yield node.attr, path.name


def test_whatever_is_imported_is_listed():
    """Else a verl without it fails somewhere in a run, not with a refusal before it."""
    listed = {word for _, seam in ALL for word in (*seam.place.partition(":")[2].split("."), *seam.mentions)}
    found = set(imported())
    assert len({name for name, _ in found}) > 40
    assert sorted((name, file) for name, file in found if name not in listed | UNLISTED) == []


@pytest.mark.parametrize(("feature", "seam"), ALL, ids=name)
def test_it_is_in_the_installed_verl(feature, seam):
    assert problem_of(seam) is None


@pytest.mark.parametrize(("feature", "seam"), ALL, ids=name)
def test_it_is_missed_where_it_is_not(feature, seam):
    module, _, function = seam.place.partition(":")
    moved = dataclasses.replace(seam, place=f"{module}:{function}.moved" if function else f"{module}.moved:")
    assert problem_of(moved) in ("it is not there", "no such key")
    if seam.parameters:
        renamed = dataclasses.replace(seam, parameters=(*seam.parameters, "added"))
        assert "expected the parameters" in (problem_of(renamed) or "")
    if seam.mentions:
        assert problem_of(dataclasses.replace(seam, mentions=(*seam.mentions, "moved_away"))) == (
            "moved_away not in it"
        )


def test_parameters_in_another_order_are_noticed():
    (seam,) = (seam for _, seam in ALL if seam.place.endswith("AgentLoopWorkerTQ._run_prompt"))
    assert "expected the parameters" in (problem_of(dataclasses.replace(seam, parameters=seam.parameters[::-1])) or "")


def test_a_verl_that_is_none_has_no_seams(tmp_path):
    (tmp_path / "__init__.py").touch()
    needed = [seam for feature in (Feature.METHOD, Feature.TREES) for seam in SEAMS[feature]]
    of_verl = [seam for seam in needed if seam.place.startswith(("verl", "config"))]
    assert len(list(missing([Feature.TREES], tmp_path))) == len(of_verl) > 40


@pytest.mark.parametrize("feature", Feature, ids=name)
def test_the_older_verl_has_them_but_for_what_is_known(older, feature):
    """0.9.0 calls ``ct_merge_context_msg`` otherwise, and by default its tool agent does not call it at all.

    Nor does it say how many tokens of a prompt vLLM had in its cache, so that nobody knows which log-probs are there.
    """
    lines = list(problems(feature, older / "verl"))
    if feature is Feature.TAGS:
        assert len(lines) == 1 and "ct_merge_context_msg" in lines[0]
    elif feature is Feature.SCHEMES:
        assert len(lines) == 1 and "num_cached_tokens not in it" in lines[0]
    else:
        assert lines == []


def test_the_versions_of_these_tests_are_the_written_ones():
    assert tested_versions()["verl"]["seams"] == [OLDER, installed_version("verl")]


COMPOSED = """
import importlib.metadata, verl
from hydra import compose, initialize_config_module
from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
from verl_atpo.startup.driver import CheckConfig

assert importlib.metadata.version("verl") == VERSION
assert get_adv_estimator_fn("atpo") and get_policy_loss_fn("atpo")
recipe = ["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.n=5"]
with initialize_config_module("verl.trainer.config", version_base=None):
    config = compose("ppo_trainer", overrides=[*recipe, "+atpo=tree", *AGENT], return_hydra_config=True)
assert config.actor_rollout_ref.rollout.n == 12
CheckConfig().on_job_start(config)
from verl_atpo.rollout import TreeAgentLoopManager
"""


def in_the_older_verl(older: Path, agent: str) -> subprocess.CompletedProcess[str]:
    code = f"VERSION, AGENT = {OLDER!r}, {[agent]!r}\n{COMPOSED}"
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, REHEARSAL_ENV: "off", "PYTHONPATH": f"{older}{os.pathsep}{PYTHON_PATH}"},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_older_verl_registers_composes_and_passes_the_checks(older):
    done = in_the_older_verl(older, "+agent=search")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "rollout.n=5 yields to +atpo=tree: it is 12" in done.stderr


def test_what_the_older_verl_has_no_place_for_is_refused_before_ray_starts(older):
    done = in_the_older_verl(older, "+agent=search_tags")
    assert done.returncode != 0
    for words in (f"verl {OLDER} is installed", "+agent=search_tags cannot work", "ct_merge_context_msg", "doctor"):
        assert words in done.stderr


GROWN = """
import sys, pytest, verl
assert verl.__version__ == VERSION
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-W", "ignore", "tests/rollout/test_worker.py"]))
"""


def test_trees_grow_in_the_older_verls_worker(older):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"VERSION = {OLDER!r}{GROWN}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{older}{os.pathsep}{QUICK}"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-3000:]


GONE = Seam("verl.trainer.ppo.core_algos:gone", "a name that moved")


def test_a_feature_without_its_seams_is_refused(monkeypatch):
    monkeypatch.setitem(seams.SEAMS, Feature.TREES, (*SEAMS[Feature.TREES], GONE))
    require(Feature.PACKED)
    with pytest.raises(SeamMissing, match=r"\+atpo=tree cannot work: verl.trainer.ppo.core_algos:gone .*doctor"):
        require(Feature.TREES)
    assert "core_algos:gone (a name that moved): it is not there" in refusal(config_with())


@pytest.mark.parametrize(
    ("overrides", "features"),
    [
        (["algorithm.adv_estimator=atpo"], set()),
        (["+atpo=chain"], {Feature.PRESETS, Feature.TREES}),
        (["+atpo=tree"], {Feature.PRESETS, Feature.TREES}),
        (["+atpo=chain", "+train=packed"], {Feature.PRESETS, Feature.TREES, Feature.PACKED}),
        (["+atpo=tree", "+agent=search_tags"], {Feature.PRESETS, Feature.TREES, Feature.TAGS}),
        (["+platform=cpu", "+sampler=quick"], {Feature.CPU, Feature.QUICK}),
        (["+platform=cpu", "trainer.v1.trainer_mode=separate_async"], {Feature.CPU, Feature.GLOO}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_config_asks_for_what_it_switches_on(overrides, features):
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=overrides, return_hydra_config=True)
    assert set(asked_for(config)) == features
    with open_dict(config):  # as Ray's workers see it
        del config["hydra"]
    assert set(asked_for(config)) == features - {Feature.PRESETS, Feature.CPU, Feature.QUICK, Feature.GLOO}
