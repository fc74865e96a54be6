"""Trees of agents behind the gateway: verl's worker with our methods, real clients, and a scripted engine."""

from __future__ import annotations

import asyncio
import collections
import random
from pathlib import Path

import openai
import pytest
from hydra import compose, initialize_config_module
from transformers import Qwen3Config
from verl.workers.rollout.replica import TokenOutput

from tests.assets.scripted_engine import SEARCH, _named, call_text, tokenizer
from tests.assets.worker import Queue, Scorer, prompt
from verl_atpo.gateway.service import service_of
from verl_atpo.report.metrics import WorkerStats, step_metrics
from verl_atpo.rollout.chains import ChainAgentLoopWorker
from verl_atpo.rollout.scope import _AgentLoopWorker
from verl_atpo.rollout.worker import TreeAgentLoopWorker

TRAIN = {"step": 1, "sample_index": 0, "rollout_n": 0, "validate": False}
CHAINS, EXPANSIONS = 3, 4


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer().save_pretrained(folder)
    Qwen3Config(
        vocab_size=len(tokenizer()), hidden_size=8, num_hidden_layers=1, architectures=["Qwen3ForCausalLM"]
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def queue(monkeypatch) -> Queue:
    return Queue(monkeypatch)


class Engine:
    """Answers with one of some texts by chance; counts what it sampled.

    The n-th answer to a prompt is always the same one, so what is sampled does not depend on the order in which
    concurrent requests arrive.

    Args:
        *texts: the answers.
        seed: of the chance.
        latency_s: longest time of an answer.
        sure_until: answers to contexts without this text are certain.
    """

    def __init__(self, *texts: str, seed: int = 0, latency_s: float = 0.0, sure_until: str = "") -> None:
        self.texts, self.seed, self.latency_s, self.sure_until = texts, seed, latency_s, sure_until
        self.asked: collections.Counter[tuple[int, ...]] = collections.Counter()
        self.sampled: list[tuple[int, ...]] = []

    async def generate(self, request_id, *, prompt_ids, sampling_params) -> TokenOutput:
        self.asked[tuple(prompt_ids)] += 1
        rng = random.Random(f"{self.seed} {self.asked[tuple(prompt_ids)]} {prompt_ids}")
        await asyncio.sleep(rng.random() * self.latency_s)
        ids = tokenizer().encode(rng.choice(self.texts) + "<|im_end|>", add_special_tokens=False)
        self.sampled.append((*prompt_ids, -1, *ids))
        unsure = float(self.sure_until in tokenizer().decode(prompt_ids))
        extra = {"min_global_steps": 1, "max_global_steps": 1}
        return TokenOutput(token_ids=ids, log_probs=[-unsure * rng.random() for _ in ids], extra_fields=extra)


def make_worker(model: Path, agent, engine, *overrides: str, atpo: str = "tree", scorer=None, own=ChainAgentLoopWorker):
    gateway = "actor_rollout_ref.rollout.custom.gateway"
    arguments = [
        f"+atpo={atpo}",
        "+agent=gateway",
        f"{gateway}.agent=tests.assets.scripted_engine:{_named(agent)}",
        f"actor_rollout_ref.model.path={model}",
        "actor_rollout_ref.rollout.name=vllm",
        "actor_rollout_ref.rollout.response_length=2048",
        "actor_rollout_ref.rollout.multi_turn.format=hermes",
        *overrides,
    ]
    if atpo == "tree":
        arguments += [
            f"algorithm.atpo.expansion.initial_chains={CHAINS}",
            "algorithm.atpo.expansion.branches_per_round=2",
            "algorithm.atpo.expansion.rounds=2",
            "algorithm.atpo.growth.regrow_delay_s=0.0",
        ]
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides=arguments)
    kind = TreeAgentLoopWorker if atpo == "tree" else own
    return kind(config, engine, None, [scorer] if scorer else None)


async def grow(worker, trajectory=TRAIN, **fields):
    """Grow one tree; returns what failed."""
    given = {**prompt("p1", "gateway"), "raw_prompt": [{"role": "user", "content": "Where is Oslo?"}], **fields}
    await worker._run_prompt(given, {"temperature": 1.0, "logprobs": True}, trajectory)
    return await worker.failures()


def trained(queue: Queue) -> list[tuple[int, ...]]:
    """Context, -1 and tokens of every turn that a row trains."""
    found = []
    for fields in queue.fields.values():
        ids, shift = fields["input_ids"].tolist(), len(fields["prompts"])
        mask = [0] * shift + fields["response_mask"].tolist() + [0]
        at = 0
        while at < len(ids):
            if mask[at]:
                end = next(place for place in range(at, len(mask)) if not mask[place])
                found.append((*ids[:at], -1, *ids[at:end]))
                at = end
            at += 1
    return found


def check_published(queue: Queue, engine: Engine) -> None:
    """Exactly M + L * K trajectories, and every answer of the engine is trained as it was sampled."""
    assert queue.status == {"p1": "finished"}
    trajectories = {key.rsplit("_", 1)[0] for key in queue.rows["p1"]}
    assert trajectories == {f"p1_{number}" for number in range(CHAINS + EXPANSIONS)}
    assert set(trained(queue)) == set(engine.sampled)
    for fields in queue.fields.values():
        assert (
            fields["rm_scores"].sum().item() == pytest.approx(fields["reward_score"], abs=1e-6)
            if "reward_score" in fields
            else True
        )


async def searcher(task, base_url, api_key):
    """Calls a tool until the model answers; the reward is 1 if it says Norway."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
    messages = list(task.messages)
    for _ in range(6):
        answered = await client.chat.completions.create(model="m", messages=messages, tools=[SEARCH])
        message = answered.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            break
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": f"On {call.function.arguments}: Norway."}
            for call in message.tool_calls
        ]
    return float("Norway" in (message.content or ""))


TEXTS = (call_text("Oslo"), call_text("Bergen", "Oslo"), "In Norway.", "In Sweden.")


async def test_a_tree_of_an_appending_agent(model, queue):
    engine = Engine(*TEXTS)
    worker = make_worker(model, searcher, engine)
    failures = await grow(worker)
    assert failures.bug is None
    check_published(queue, engine)
    assert all(key.endswith("_0") for key in queue.rows["p1"])  # one row a trajectory
    (stats,) = worker._stats.trees
    assert stats.diverged == 0
    assert (await service_of(worker_config(worker), None)).endpoint._open == {}


def worker_config(worker):
    from verl_atpo.gateway.loop import gateway_config

    return gateway_config(worker.config)


async def delegating(task, base_url, api_key):
    """Compacts its context, and asks sub-agents at the same time."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)

    async def ask(*messages):
        answered = await client.chat.completions.create(model="m", messages=list(messages))
        return answered.choices[0].message.model_dump(exclude_none=True)

    def user(text):
        return {"role": "user", "content": text}

    first = await ask(*task.messages)

    async def sub_agent(number):
        start = user(f"Sub-task {number % 2}: {first['content']}")
        return await ask(start, await ask(start), user("Go on."))

    found = await asyncio.gather(*map(sub_agent, range(3)))
    # Two sub-agents may ask the same at the same time: which of them gets which answer is a matter of time.
    second = await ask(*task.messages, first, user(" ".join(sorted(each["content"] for each in found))))
    if "Sweden" in second["content"]:
        return 0.0  # an early end
    summary = await ask(user(f"Summary: {second['content']}"))
    return float("Norway" in summary["content"])


@pytest.mark.parametrize("schedule", ["continuous", "rounds"])
async def test_a_tree_of_an_agent_that_compacts_and_delegates(model, queue, schedule):
    engine = Engine("In Norway.", "In Sweden.", "Oslo is a town.", latency_s=0.01)
    worker = make_worker(model, delegating, engine, f"algorithm.atpo.expansion.schedule={schedule}")
    failures = await grow(worker)
    assert failures.bug is None
    check_published(queue, engine)
    assert (
        max(int(key.rsplit("_", 1)[1]) for key in queue.rows["p1"]) >= 3
    )  # the main row, three sub-agents, perhaps more
    (stats,) = worker._stats.trees
    assert stats.diverged == 0


async def rewriting(task, base_url, api_key):
    """Asks three times, and sends its second answer back changed."""
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
    messages = list(task.messages)
    for number in range(3):
        answered = await client.chat.completions.create(model="m", messages=messages)
        text = answered.choices[0].message.content
        messages += [{"role": "assistant", "content": f"{text} " if number == 1 else text}]
        messages += [{"role": "user", "content": "Go on."}]
    return float("Norway" in text)


async def test_metrics_count_trajectories_and_their_rows(model, queue):
    worker = make_worker(model, rewriting, Engine("In Norway.", "In Sweden."))
    await grow(worker)
    (stats,) = worker._stats.trees
    metrics = step_metrics(WorkerStats([stats]))
    assert {key.rsplit("_", 1)[1] for key in queue.rows["p1"]} == {"0", "1"}
    assert metrics["atpo/rows_per_trajectory"] == 2.0
    assert metrics["atpo/agent/calls"] == 3.0
    assert metrics["atpo/agent/edits_per_call"] == pytest.approx(1 / 3)
    assert metrics["atpo/agent/crashed"] == metrics["atpo/agent/refused_calls"] == metrics["atpo/agent/late"] == 0.0
    last = {key: fields for key, fields in queue.fields.items() if key.endswith("_1")}
    outcomes = [fields["rm_scores"].sum().item() for fields in last.values()]
    assert len(outcomes) == CHAINS + EXPANSIONS
    assert metrics["atpo/reward/mean"] == pytest.approx(sum(outcomes) / len(outcomes), abs=1e-6)


async def clocked(task, base_url, api_key):
    """Puts a clock into its second prompt."""
    clocked.ticks += 1
    client = openai.AsyncOpenAI(base_url=base_url, api_key=api_key)
    messages = [*task.messages, {"role": "user", "content": "First."}]
    for _ in range(5):
        answered = await client.chat.completions.create(model="m", messages=messages)
        messages.append(answered.choices[0].message.model_dump(exclude_none=True))
        messages.append({"role": "user", "content": f"It is 12:00:{clocked.ticks:02d} o'clock."})
    return 0.5


CLOCKED = ("algorithm.atpo.expansion.strategy=entropy", "algorithm.atpo.expansion.schedule=rounds")
"""Expansions start where the model is unsure: after a clock."""


async def test_a_clock_in_a_prompt_is_noticed_and_named(model, queue, caplog):
    clocked.ticks = 0
    engine = Engine("Yes.", "No.", sure_until="o'clock")
    worker = make_worker(model, clocked, engine, *CLOCKED)
    await grow(worker)
    check_published(queue, engine)
    (stats,) = worker._stats.trees
    assert stats.diverged > 0
    line = next(line for line in caplog.messages if "asked again for" in line)
    assert "12:00:0" in line and "A time, a random id" in line
    was, now = line.split("the prompt was ...")[1].split(" it is ...")
    assert was != now and "It is 12:00:" in was and "It is 12:00:" in now


async def test_a_clock_that_the_settings_ignore_is_replayed(model, queue):
    clocked.ticks = 0
    engine = Engine("Yes.", "No.", sure_until="o'clock")
    ignore = r"actor_rollout_ref.rollout.custom.gateway.ignore=['\d\d:\d\d:\d\d']"
    worker = make_worker(model, clocked, engine, *CLOCKED, ignore)
    await grow(worker)
    check_published(queue, engine)
    (stats,) = worker._stats.trees
    assert stats.diverged == 0
    assert len(engine.sampled) < 5 * len(queue.fields)  # expansions replayed what they share


@pytest.mark.parametrize("sampler", [ChainAgentLoopWorker, _AgentLoopWorker], ids=["recorded chains", "verl's own"])
async def test_chains_take_several_rows(model, queue, sampler):
    engine = Engine("In Norway.", "Oslo is a town.", latency_s=0.005)
    worker = make_worker(model, delegating, engine, atpo="chain", own=sampler)
    given = {**prompt("p1", "gateway"), "raw_prompt": [{"role": "user", "content": "Where?"}], "__rollout_n__": 4}
    await worker._run_prompt(given, {"temperature": 1.0, "logprobs": True}, TRAIN)
    assert queue.status == {"p1": "finished"}
    assert {key.rsplit("_", 1)[0] for key in queue.rows["p1"]} == {f"p1_{number}" for number in range(4)}
    assert sorted(trained(queue)) == sorted(engine.sampled)


async def test_validation_takes_several_rows(model, queue):
    engine = Engine("In Norway.", "Oslo is a town.", latency_s=0.005)
    await grow(make_worker(model, delegating, engine), {**TRAIN, "validate": True}, uid="v1")
    assert queue.status == {"v1": "finished"}
    assert sorted(trained(queue)) == sorted(engine.sampled)


async def moody(task, base_url, api_key):
    """Crashes, is slow, or ends early, as the model says."""
    async with openai.AsyncOpenAI(base_url=base_url, api_key=api_key) as client:
        messages = list(task.messages)
        for _ in range(4):
            answered = await client.chat.completions.create(model="m", messages=messages)
            message = answered.choices[0].message
            if "crash" in message.content:
                raise KeyError("weather")
            if "slow" in message.content:
                await asyncio.sleep(0.05)
            if "end" in message.content:
                return
            messages += [message.model_dump(exclude_none=True), {"role": "user", "content": "Go on."}]


async def test_agents_that_crash_are_scored_for_what_they_did(model, queue):
    engine = Engine("I crash.", "I am slow.", "I end.", "I go on.", latency_s=0.005)
    share = "actor_rollout_ref.rollout.custom.gateway.max_crash_share=1.0"
    worker = make_worker(model, moody, engine, share, scorer=Scorer(lambda: 0.5))
    failures = await grow(worker)
    assert failures.bug is None
    check_published(queue, engine)
    crashed = [fields["extra_fields"]["agent_crash"] for fields in queue.fields.values()]
    assert any(crash and "KeyError: 'weather'" in crash for crash in crashed)
    assert all(fields["rm_scores"].sum().item() == pytest.approx(0.5) for fields in queue.fields.values())
