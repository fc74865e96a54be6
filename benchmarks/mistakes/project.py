"""A small project that would train: model, data, reward, tool, and the command line that names them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from verl_atpo.tiny.model import build_model, save
from verl_atpo.tiny.tokenizer import text_tokenizer

ROWS = 16
TEMPLATE = (
    "{% for tool in tools or [] %}{{ tool | tojson }} {% endfor %}"
    "{% for message in messages %}user {% if message['content'] is string %}{{ message['content'] }}{% endif %} "
    "{% endfor %}{% if add_generation_prompt %}assistant {% endif %}"
)
"""Writes schemas of tools, and leaves out contents that are no text, as templates of text models do."""
REWARD = '''"""Reward of the game."""


def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    """1 where the gold answer was said."""
    return float(ground_truth in solution_str)
'''
TOOL = '''"""The game's tool."""

from verl_atpo.tools import StatefulTool


class Guess(StatefulTool):
    def open(self, secret: int) -> dict:
        return {"secret": secret}

    def call(self, state: dict, number: int) -> str:
        """Guess the secret number.

        Args:
            number: the guess.
        """
        return "right" if number == state["secret"] else "wrong"
'''
TOOLS = "tools:\n  - class_name: mistakes_guess.Guess\n    config: {type: native}\n"


def row(number: int, **changed: Any) -> dict[str, Any]:
    """A data row."""
    secret = random.Random(number).randrange(10)
    return {
        "data_source": "guess",
        "prompt": [{"role": "user", "content": f"guess the number {number}"}],
        "reward_model": {"style": "rule", "ground_truth": "right"},
        "extra_info": {"index": number, "tools_kwargs": {"guess": {"create_kwargs": {"secret": secret}}}},
        **changed,
    }


def write_rows(file: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as parquet, or as JSON lines where the name ends so."""
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(each) + "\n" for each in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)


def make(folder: Path) -> list[str]:
    """Write the project.

    Args:
        folder: where; it is made.

    Returns:
        Arguments of ``main_ppo`` with which it would train on a CPU.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines = [TOOL, *(f"user guess the number {number} assistant right wrong" for number in range(ROWS))]
    tokenizer = text_tokenizer(lines, TEMPLATE)
    save(build_model(tokenizer, seed=0), tokenizer, folder / "model")
    for name in ("train", "val"):
        write_rows(folder / f"{name}.parquet", [row(number) for number in range(ROWS)])
    (folder / "reward.py").write_text(REWARD)
    (folder / "mistakes_guess.py").write_text(TOOL)
    (folder / "tools.yaml").write_text(TOOLS)
    return [
        f"actor_rollout_ref.model.path={folder}/model",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/val.parquet",
        "data.train_batch_size=8",
        "data.max_prompt_length=256",
        "data.max_response_length=64",
        "actor_rollout_ref.rollout.max_model_len=320",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8",
        "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent",
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={folder}/tools.yaml",
        f"reward.custom_reward_function.path={folder}/reward.py",
        'trainer.logger=["console"]',
        f"trainer.default_local_dir={folder}/checkpoints",
        "+atpo=tree",
        "+platform=cpu",
    ]
