"""The mistakes: what is wrong, what it changes in a project that would train, and the setting that has to be named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.mistakes.project import REWARD, TOOL, TOOLS, row, write_rows
from verl_atpo.tiny.tokenizer import END

ROLLOUT, ACTOR = "actor_rollout_ref.rollout", "actor_rollout_ref.actor"
MULTI_TURN, AGENT = f"{ROLLOUT}.multi_turn", f"{ROLLOUT}.agent"
MODEL, TRAIN, VALIDATION = "actor_rollout_ref.model.path", "data.train_files", "data.val_files"
FILE, FUNCTION = "reward.custom_reward_function.path", "reward.custom_reward_function.name"

Change = Callable[[Path], Any]


def _nothing(folder: Path) -> None:
    """Leave the project as it is."""


@dataclass(frozen=True)
class Mistake:
    """One mistake.

    Attributes:
        what: what somebody did.
        names: the setting that the message has to name.
        arguments: further arguments of ``main_ppo``; ``{folder}`` is the project's.
        change: what is done to the project's files.
        without: arguments that are left out, by how they begin.
        environment: of the process.
        warns: whether the run would start all the same.
    """

    what: str
    names: str
    arguments: tuple[str, ...] = ()
    change: Change = _nothing
    without: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    warns: bool = False


def _write(name: str, text: str) -> Change:
    return lambda folder: (folder / name).write_text(text)


def _rows(name: str, **changed: Any) -> Change:
    """Change some fields in all rows of a file."""
    return lambda folder: write_rows(folder / name, [row(number, **changed) for number in range(16)])


def _without_column(name: str, column: str) -> Change:
    def change(folder: Path) -> None:
        rows = [row(number) for number in range(16)]
        write_rows(folder / name, [{key: value for key, value in each.items() if key != column} for each in rows])

    return change


def _model_file(name: str, edit: Callable[[dict[str, Any]], Any] | None) -> Change:
    """A JSON file of the model edited, or removed."""

    def change(folder: Path) -> None:
        file = folder / "model" / name
        if edit is None:
            file.unlink()
        else:
            content = json.loads(file.read_text())
            edit(content)
            file.write_text(json.dumps(content))

    return change


def _one_row(number: int, **changed: Any) -> Change:
    """Change some fields in one row of the training data."""

    def change(folder: Path) -> None:
        rows = [row(each, **(changed if each == number else {})) for each in range(16)]
        write_rows(folder / "train.parquet", rows)

    return change


def _no_rows(folder: Path) -> None:
    write_rows(folder / "train.parquet", [row(0)])
    file = folder / "train.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)


def _cut_weights(folder: Path) -> None:
    file = folder / "model" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:3000])


def _without_template(folder: Path) -> None:
    (folder / "model" / "chat_template.jinja").unlink(missing_ok=True)
    _model_file("tokenizer_config.json", lambda content: content.pop("chat_template", None))(folder)


LONG = "guess " * 300
HALF = {"prompt": [{"role": "user", "content": "guess \ud83d"}]}
PARTS = {"prompt": [{"role": "user", "content": [{"type": "text", "text": "guess the number"}]}]}
SHALLOW = """    def snapshot(self, state: dict) -> dict:
        return dict(state)

    def restore(self, snapshot: dict) -> dict:
        return snapshot

    def call"""
LOOP = '''"""An agent loop that is not asynchronous."""

from verl.experimental.agent_loop.agent_loop import AgentLoopBase


class Loop(AgentLoopBase):
    def run(self, sampling_params, **kwargs):
        return None
'''

COMMAND_LINE = (
    Mistake("a preset's name misspelt", "atpo/tre", ("+atpo=tre",)),
    Mistake("a setting of verl's misspelt", f"{ROLLOUT}.temperatur", (f"{ROLLOUT}.temperatur=1.0",)),
    Mistake(
        "a setting of this package, and no preset",
        "algorithm.atpo.dump_dir",
        ("algorithm.atpo.dump_dir=trees",),
        without=("+atpo",),
    ),
    Mistake("+platform=cpu without its variable", "VERL_PLATFORM", environment={"VERL_PLATFORM": ""}),
)
"""Mistakes that Hydra notices when it composes the config."""

CONFIG = (
    Mistake(
        "a setting of this package misspelt", "algorithm.atpo.expansion.round", ("+algorithm.atpo.expansion.round=2",)
    ),
    Mistake("rollout.n set by hand", f"{ROLLOUT}.n", (f"{ROLLOUT}.n=5",)),
    Mistake("greedy sampling", f"{ROLLOUT}.temperature", (f"{ROLLOUT}.temperature=0",)),
    Mistake("an estimator's name misspelt", "algorithm.adv_estimator", ("algorithm.adv_estimator=atop",)),
    Mistake("a loop of one turn", f"{AGENT}.default_agent_loop", (f"{AGENT}.default_agent_loop=single_turn_agent",)),
    Mistake("no tools", f"{AGENT}.default_agent_loop", without=(f"{MULTI_TURN}.tool_config_path",)),
    Mistake("a format of tool calls misspelt", f"{MULTI_TURN}.format", (f"{MULTI_TURN}.format=hermse",)),
    Mistake("mini-batch larger than the batch", f"{ACTOR}.ppo_mini_batch_size", (f"{ACTOR}.ppo_mini_batch_size=16",)),
    Mistake(
        "micro-batches that do not divide the rows",
        f"{ACTOR}.ppo_micro_batch_size_per_gpu",
        (f"{ACTOR}.ppo_micro_batch_size_per_gpu=7",),
    ),
    Mistake(
        "filtered groups with +sampler=quick",
        "algorithm.filter_groups.enable",
        ("+sampler=quick", "++algorithm.filter_groups.enable=True"),
    ),
    Mistake("a number in quotes", "data.train_batch_size", ("data.train_batch_size='8'",)),
    Mistake("no devices", "trainer.n_gpus_per_node", ("trainer.n_gpus_per_node=0",)),
    Mistake("no validation samples", f"{ROLLOUT}.val_kwargs.n", (f"{ROLLOUT}.val_kwargs.n=0",)),
    Mistake(
        "a share of memory above 1", f"{ROLLOUT}.gpu_memory_utilization", (f"{ROLLOUT}.gpu_memory_utilization=90",)
    ),
    Mistake("a truth value in quotes", "trainer.val_before_train", ("trainer.val_before_train='no'",)),
    Mistake("a truncation that verl does not know", "data.truncation", ("data.truncation=none",)),
    Mistake(
        "an engine on more devices than there are",
        f"{ROLLOUT}.tensor_model_parallel_size",
        (f"{ROLLOUT}.tensor_model_parallel_size=3",),
    ),
    Mistake("an engine's name misspelt", f"{ROLLOUT}.name", (f"{ROLLOUT}.name=vlm",)),
    Mistake(
        "a tree of one trajectory",
        "algorithm.atpo.expansion.initial_chains",
        ("algorithm.atpo.expansion.initial_chains=1", "algorithm.atpo.expansion.rounds=0"),
    ),
    Mistake("a learning rate of zero", f"{ACTOR}.optim.lr", (f"{ACTOR}.optim.lr=0",)),
    Mistake("a learning rate of 10", f"{ACTOR}.optim.lr", (f"{ACTOR}.optim.lr=10",)),
    Mistake("a temperature of 100", f"{ROLLOUT}.temperature", (f"{ROLLOUT}.temperature=100",)),
    Mistake("a schedule misspelt", f"{ACTOR}.optim.lr_scheduler_type", (f"{ACTOR}.optim.lr_scheduler_type=cosin",)),
    Mistake(
        "a gradient clip that verl does not read",
        f"{ACTOR}.optim.clip_grad",
        (f"{ACTOR}.grad_clip=0.5",),
        warns=True,
    ),
    Mistake("FSDP1 on a CPU", f"{ACTOR}.strategy", (f"{ACTOR}.strategy=fsdp",)),
    Mistake(
        "validation only, and none before training",
        "trainer.val_only",
        ("trainer.val_only=True", "trainer.val_before_train=False"),
    ),
    Mistake(
        "two presets of a kind",
        "+atpo=paper yields to +atpo=tree",
        ("+atpo=paper", "+atpo=tree"),
        without=("+atpo",),
        warns=True,
    ),
)
"""Mistakes in the config alone."""

REWARDS = (
    Mistake("no reward file", FILE, change=lambda folder: (folder / "reward.py").unlink()),
    Mistake("a syntax error in the reward file", FILE, change=_write("reward.py", "def compute_score(:\n")),
    Mistake("an import that fails in the reward file", FILE, change=_write("reward.py", "import no_such_module\n")),
    Mistake(
        "no compute_score in the reward file", FUNCTION, change=_write("reward.py", "def computescore():\n    pass\n")
    ),
    Mistake(
        "a reward function without extra_info",
        FILE,
        change=_write("reward.py", REWARD.replace(", extra_info=None", "")),
    ),
    Mistake("a reward of None", FUNCTION, change=_write("reward.py", REWARD.replace("return float", "float"))),
    Mistake(
        "a reward that is a pair",
        FUNCTION,
        change=_write("reward.py", REWARD.replace("in solution_str)", "in solution_str), 'why'")),
    ),
    Mistake(
        "a reward function that raises",
        FUNCTION,
        change=_write("reward.py", REWARD.replace("return float", "extra_info['solution']\n    return float")),
    ),
    Mistake("no reward for the data", FILE, without=(FILE,)),
    Mistake(
        "a reward file of another name",
        FILE,
        (f"{FILE}={{folder}}/reward.txt",),
        change=_write("reward.txt", REWARD),
    ),
    Mistake(
        "policy_text read in a baseline",
        FUNCTION,
        ("+atpo=chain", f"{AGENT}.agent_loop_manager_class=null"),
        change=_write("reward.py", REWARD.replace("return float", "extra_info['policy_text']\n    return float")),
    ),
)

DATA = (
    Mistake("training file misspelt", TRAIN, (f"{TRAIN}={{folder}}/trian.parquet",)),
    Mistake("no validation file", VALIDATION, change=lambda folder: (folder / "val.parquet").unlink()),
    Mistake("no column reward_model", TRAIN, change=_without_column("train.parquet", "reward_model")),
    Mistake(
        "no column data_source in the validation data", VALIDATION, change=_without_column("val.parquet", "data_source")
    ),
    Mistake("another name for the prompts", "data.prompt_key", ("data.prompt_key=prompts",)),
    Mistake("prompts that are texts", "data.prompt_key", change=_rows("train.parquet", prompt="guess the number")),
    Mistake("an empty prompt", "prompt", change=_rows("train.parquet", prompt=[{"role": "user", "content": " "}])),
    Mistake("contents as parts, for a text model", "prompt", change=_rows("train.parquet", **PARTS)),
    Mistake(
        "half a surrogate pair in a prompt",
        "prompt",
        (f"{TRAIN}={{folder}}/train.jsonl",),
        change=_rows("train.jsonl", **HALF),
    ),
    Mistake(
        "a prompt that is too long",
        "data.max_prompt_length",
        change=_rows("train.parquet", prompt=[{"role": "user", "content": LONG}]),
    ),
    Mistake("a data file without rows", TRAIN, change=_no_rows),
    Mistake("a folder for a data file", TRAIN, (f"{TRAIN}={{folder}}",)),
    Mistake("a pattern for data files", TRAIN, (f"{TRAIN}={{folder}}/tr*.parquet",)),
    Mistake("extra_info as JSON text", "extra_info", change=_rows("train.parquet", extra_info='{"index": 1}')),
    Mistake(
        "tools_kwargs as JSON text",
        "tools_kwargs",
        change=_rows("train.parquet", extra_info={"index": 1, "tools_kwargs": '{"guess": {}}'}),
    ),
    Mistake("a data_source that is null", "data_source", change=_one_row(9, data_source=None)),
    Mistake(
        "a gold answer that is null in one row",
        "reward_model.ground_truth",
        change=_one_row(9, reward_model={"style": "rule", "ground_truth": None}),
    ),
    Mistake("an agent loop misspelt in the data", "agent_name", change=_rows("train.parquet", agent_name="tool_agnt")),
    Mistake(
        "a loop of one turn in the data", "agent_name", change=_rows("train.parquet", agent_name="single_turn_agent")
    ),
    Mistake("another number of leaves in the data", "__rollout_n__", change=_rows("train.parquet", __rollout_n__=4)),
    Mistake(
        "a control token in a prompt",
        TRAIN,
        change=_rows("train.parquet", prompt=[{"role": "user", "content": f"guess {END} assistant right"}]),
        warns=True,
    ),
    Mistake(
        "a limit that drops every prompt",
        "data.max_prompt_length",
        ("data.filter_overlong_prompts=True", "data.max_prompt_length=4"),
    ),
    Mistake("no file for a class of data", "data.custom_cls.path", ("data.custom_cls.path={folder}/mine.py",)),
    Mistake(
        "a prompt with its answer",
        TRAIN,
        change=_rows(
            "train.parquet", prompt=[{"role": "user", "content": "guess"}, {"role": "assistant", "content": "right"}]
        ),
        warns=True,
    ),
    Mistake("no room for the tools' schemas", "data.max_prompt_length", ("data.max_prompt_length=24",)),
    Mistake(
        "pictures for a text model",
        TRAIN,
        change=_rows("train.parquet", images=["a.png"], prompt=[{"role": "user", "content": "<image> guess"}]),
    ),
    Mistake("no gold answer", "reward_model", change=_rows("train.parquet", reward_model={"style": "rule"})),
    Mistake(
        "a batch larger than the data",
        "data.train_batch_size",
        ("data.train_batch_size=64", f"{ROLLOUT}.log_prob_micro_batch_size_per_gpu=8"),
    ),
    Mistake(
        "mini-batches that do not divide a step",
        f"{ACTOR}.ppo_mini_batch_size",
        (f"{ACTOR}.ppo_mini_batch_size=6", f"{ACTOR}.use_dynamic_bsz=True"),
        warns=True,
    ),
)

MODELS = (
    Mistake("a model's folder misspelt", MODEL, (f"{MODEL}={{folder}}/modle",)),
    Mistake("a model without config.json", MODEL, change=_model_file("config.json", None)),
    Mistake("a model without weights", MODEL, change=lambda folder: (folder / "model/model.safetensors").unlink()),
    Mistake(
        "a model without its tokenizer",
        MODEL,
        change=lambda folder: [file.unlink() for file in (folder / "model").glob("tokenizer*")],
    ),
    Mistake("weights that are cut off", MODEL, change=_cut_weights),
    Mistake("a placeholder for weights", MODEL, change=_write("model/model.safetensors", "version https://git-lfs\n")),
    Mistake(
        "a model that transformers does not know",
        MODEL,
        change=_model_file("config.json", lambda content: content.update(model_type="qwen9")),
    ),
    Mistake(
        "a model that classifies",
        MODEL,
        change=_model_file("config.json", lambda content: content.update(architectures=["XForSequenceClassification"])),
    ),
    Mistake(
        "a tokenizer with more tokens than the model",
        MODEL,
        change=_model_file("config.json", lambda content: content.update(vocab_size=9)),
    ),
    Mistake(
        "a chat template that leaves the question out",
        "prompt",
        change=_write("model/chat_template.jinja", "{{ messages[0]['role'] }}"),
    ),
    Mistake("a tokenizer without chat template", MODEL, change=_without_template),
    Mistake("a hub id, offline", MODEL, (f"{MODEL}=some/model",), environment={"HF_HUB_OFFLINE": "1"}),
    Mistake(
        "responses longer than the model takes",
        "data.max_response_length",
        ("data.max_response_length=1024", f"{ROLLOUT}.max_model_len=null"),
    ),
)

TOOL_MISTAKES = (
    Mistake(
        "open without the row's arguments",
        "tools_kwargs",
        change=_rows(
            "train.parquet", extra_info={"index": 1, "tools_kwargs": {"guess": {"create_kwargs": {"game": 1}}}}
        ),
    ),
    Mistake(
        "open returns no state",
        "Guess.open",
        change=_write("mistakes_guess.py", TOOL.replace('return {"secret": secret}', "self.secret = secret")),
        warns=True,
    ),
    Mistake(
        "call without the state",
        f"{MULTI_TURN}.tool_config_path",
        change=_write("mistakes_guess.py", TOOL.replace("state: dict, ", "")),
    ),
    Mistake(
        "open raises",
        "guess",
        change=_write("mistakes_guess.py", TOOL.replace('return {"secret": secret}', "return secret / 0")),
    ),
    Mistake(
        "a tool of an earlier verl",
        f"{MULTI_TURN}.tool_config_path",
        change=_write("tools.yaml", TOOLS.replace("mistakes_guess.Guess", "verl.tools.search_tool.SearchTool")),
    ),
    Mistake(
        "a tool's class that cannot be imported",
        f"{MULTI_TURN}.tool_config_path",
        change=_write("tools.yaml", TOOLS.replace("mistakes_guess", "no_such_module")),
    ),
    Mistake(
        "a tool's module that ends the process",
        f"{MULTI_TURN}.tool_config_path",
        change=_write("mistakes_guess.py", "import sys\n\nsys.exit(1)\n"),
    ),
    Mistake(
        "a snapshot that is no copy",
        f"{MULTI_TURN}.tool_config_path",
        change=_write("mistakes_guess.py", TOOL.replace("    def call", SHALLOW)),
        warns=True,
    ),
    Mistake(
        "an agent loop that is not asynchronous",
        f"{AGENT}.agent_loop_config_path",
        (f"{AGENT}.agent_loop_config_path={{folder}}/loops.yaml", f"{AGENT}.default_agent_loop=mine"),
        change=lambda folder: (
            (folder / "mistakes_loop.py").write_text(LOOP),
            (folder / "loops.yaml").write_text("- {name: mine, _target_: mistakes_loop.Loop}\n"),
        ),
    ),
)

SURROUNDINGS = (
    Mistake("a reward manager misspelt", "reward.reward_manager.name", ("reward.reward_manager.name=naivee",)),
    Mistake(
        "a secret on the command line",
        "reward_kwargs.api_key",
        ("+reward.custom_reward_function.reward_kwargs.api_key=sk-1",),
        change=_write("reward.py", REWARD.replace("extra_info=None", "extra_info=None, api_key=None")),
        warns=True,
    ),
    Mistake("wandb without a key", "trainer.logger", ('trainer.logger=["console","wandb"]',)),
    Mistake("a logger's name misspelt", "trainer.logger", ('trainer.logger=["consol"]',)),
    Mistake(
        "a machine without GPU",
        "trainer.n_gpus_per_node",
        ("trainer.n_gpus_per_node=1", f"{ROLLOUT}.tensor_model_parallel_size=1"),
        without=("+platform=cpu",),
    ),
    Mistake(
        "checkpoints where nothing can be written",
        "trainer.default_local_dir",
        ("trainer.default_local_dir=/proc/checkpoints", "trainer.save_freq=10"),
    ),
)

MISTAKES = (*COMMAND_LINE, *CONFIG, *REWARDS, *DATA, *MODELS, *TOOL_MISTAKES, *SURROUNDINGS)
