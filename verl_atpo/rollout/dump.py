"""Trees as JSON lines, one tree a line: texts, values, rewards and advantages per turn."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import secrets
import socket
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from verl_atpo.config import CreditConfig
from verl_atpo.failure import brief
from verl_atpo.method.credit import node_values, tree_advantages
from verl_atpo.method.tree import ROOT
from verl_atpo.rollout.grower import GrownTree, Limb


class TreeDump:
    """Appends trees to ``<folder>/trees-<host>-<process id>-<random>.jsonl``; every worker has a file of its own.

    A process id alone is not enough: workers on several nodes write to one folder, and so do a run and its resumption.

    Args:
        folder: made when missing.
        tokenizer: for the texts.
    """

    def __init__(self, folder: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self._path = Path(folder) / f"trees-{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._tokenizer = tokenizer
        self._lock = asyncio.Lock()

    async def write(self, grown: GrownTree, prompt: dict[str, Any], credit: CreditConfig) -> None:
        """Append one tree.

        Args:
            grown: the tree.
            prompt: verl's fields of the prompt it grew from.
            credit: how values and advantages are made.
        """
        record = {
            "uid": prompt["uid"],
            "global_step": int(prompt["global_steps"]),
            "data_source": prompt.get("data_source"),
            "ground_truth": (prompt.get("reward_model") or {}).get("ground_truth"),
            **self.describe(grown, credit),
        }
        line = json.dumps(record, ensure_ascii=False, default=str) + "\n"
        async with self._lock:
            await asyncio.to_thread(self._append, line)

    def _append(self, line: str) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(line)

    def describe(self, grown: GrownTree, credit: CreditConfig) -> dict[str, Any]:
        """The tree as plain data: its prompt, and one entry per turn.

        ``value`` is on the scale of the reward, ``advantage`` is what the estimator gives the turn's tokens,
        ``versions`` are the oldest and the newest version of the weights that sampled the turn.
        """
        tree = grown.tree
        values = node_values(tree, credit.backup)
        advantages = tree_advantages(tree, credit)
        nodes = [
            {
                "index": node.index,
                "parent": node.parent,
                "round": node.round,
                "turn": tree.depth(node.index),
                "observation": "" if node.parent == ROOT else self._text(tree.turn(node.index).observed_ids),
                "text": self._text(tree.turn(node.index).token_ids),
                "tokens": len(tree.turn(node.index).token_ids),
                "mean_nll": node.mean_nll,
                "versions": tree.turn(node.index).versions,
                "is_leaf": node.is_leaf,
                "reward": node.reward,
                "value": values[node.index],
                "advantage": advantages[node.index],
            }
            for node in tree.nodes[1:]
        ]
        return {
            "prompt": self._text(tree.turn(tree.nodes[ROOT].children[0]).observed_ids),
            "root_value": values[ROOT],
            "picked": grown.picked,
            "regrown": grown.regrown,
            "branches": [_branch(limb) for limb in grown.limbs],
            "nodes": nodes,
        }

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def _branch(limb: Limb) -> dict[str, Any]:
    """When a branch started and why its turn was picked; ``picked`` is ``None`` for an initial chain."""
    return {
        "number": limb.number,
        "leaf": None if limb.branch is None else limb.tip,
        "round": limb.round,
        "diverged": limb.branch is not None and limb.branch.diverged,
        "picked": None if limb.pick is None else dataclasses.asdict(limb.pick),
        "started_s": limb.started_s,
        "ended_s": limb.ended_s,
        "failures": [brief(error) for error in limb.failures],
    }
