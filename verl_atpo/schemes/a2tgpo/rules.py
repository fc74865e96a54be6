"""Start-up rules of A²TGPO: the config and the data that information gains need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tensordict import TensorDict

from verl_atpo.config import ROOT_KEY, AdvantageMode, AtpoConfig, Backup, ConfigError, Contexts, Weights
from verl_atpo.schemes.a2tgpo.scheme import A2TGPO
from verl_atpo.settings import refuse, show
from verl_atpo.startup.data_checks import column
from verl_atpo.startup.rules.rule import Rule
from verl_atpo.startup.verl_config import AGENT, ESTIMATOR, LOSS, MODE, ROLLOUT, TREE_MANAGER, get, grows_trees

NAME = A2TGPO.name
"""Name of the estimator, the policy loss and the preset."""

SETTING = f"{ROOT_KEY}.information_gain"


def check_information_gain(config: DictConfig, atpo: AtpoConfig) -> None:
    """Check what A²TGPO needs.

    Raises:
        ConfigError: names the setting, its value and the remedy.
    """
    clip = A2TGPO(atpo).settings.clip
    if get(config, ESTIMATOR) != NAME:
        if get(config, LOSS) == NAME:
            raise refuse(
                LOSS, NAME, f"only {ESTIMATOR}=a2tgpo says how wide a turn's clip range is; set it, or {LOSS}=atpo"
            )
        return
    if not grows_trees(config):
        key = f"{AGENT}.agent_loop_manager_class"
        raise refuse(
            key,
            get(config, key),
            f"verl's own sampler knows no information gains; set {key}={TREE_MANAGER} (+atpo=a2tgpo)",
        )
    if get(config, LOSS) != NAME and clip:
        raise refuse(
            f"{SETTING}.clip",
            clip,
            f"{LOSS}={get(config, LOSS)} has one clip range for all turns; set {LOSS}=a2tgpo, or clip=0",
        )
    _check_engine(config)
    _check_credit(atpo)


def _check_engine(config: DictConfig) -> None:
    engine, mode = get(config, f"{ROLLOUT}.name"), get(config, MODE)
    if engine not in (None, "vllm"):  # verl itself insists on a name
        raise refuse(
            f"{ROLLOUT}.name",
            engine,
            "the log-probs of a prompt's tokens are asked of vLLM, no other was tried; set vllm",
        )
    if mode not in (None, "sync"):
        raise refuse(MODE, mode, "verl's client of its asynchronous trainers drops the log-probs of a prompt; set sync")
    kind = get(config, f"{ROLLOUT}.logprobs_mode")
    if kind is not None and not str(kind).endswith("logprobs"):
        raise refuse(f"{ROLLOUT}.logprobs_mode", kind, "gains are differences of log-probs; set processed_logprobs")


def _check_credit(atpo: AtpoConfig) -> None:
    credit = atpo.credit
    wanted = {
        "backup": Backup.LEAF_MEAN.value,
        "advantage": AdvantageMode.VALUE.value,
        "weights": Weights.PER_LEAF.value,
        "contexts": Contexts.SEPARATE.value,
    }
    for name, value in wanted.items():
        if getattr(credit, name) != value:
            raise refuse(
                f"{ROOT_KEY}.credit.{name}",
                getattr(credit, name).value,
                f"with {ESTIMATOR}=a2tgpo each row's turns get its own outcome; set {value} (+atpo=a2tgpo does)",
            )
    if credit.tool_rewards:
        raise refuse(
            f"{ROOT_KEY}.credit.tool_rewards",
            credit.tool_rewards,
            f"{ESTIMATOR}=a2tgpo credits turns with information gains instead; set 0",
        )


def check_gold_answers(batch: TensorDict, path: str) -> None:
    """Refuse rows without a gold answer.

    Args:
        batch: verl's prompts; those of a validation need none.
        path: ``information_gain.answer``.

    Raises:
        ConfigError: names the row, what stands there and the remedy.
    """
    if any(column(batch, "validate")):
        return
    columns = {key: column(batch, key) for key in (path.partition(".")[0], "extra_info")}
    for row in range(len(batch)):
        gold_answer({key: values[row] for key, values in columns.items()}, path, f"row {row} of the batch")


def gold_answer(fields: Mapping[str, Any], path: str, name: str = "the prompt") -> str:
    """Return the gold answer of a data row: the text at a dotted path, or the first one of a list of texts.

    Raises:
        ConfigError: there is none.
    """
    found: Any = fields
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    several = isinstance(found, Sequence | np.ndarray) and not isinstance(found, str)
    answer = found[0] if several and len(found) else found
    if isinstance(answer, str) and answer.strip():
        return answer
    raise ConfigError(
        f"{SETTING}.answer={path} cannot work: {name} (extra_info={show(fields.get('extra_info'))}) has {show(found)} "
        f"there, expected the gold answer: a text, or a list of texts whose first one is taken. Correct the data, or "
        "name the field that holds it."
    )


RULES = (Rule(ESTIMATOR, lambda run: check_information_gain(run.config, run.atpo)),)
