"""Asking the engine for the gold answer while a tree grows: what is asked, how often, and what becomes of trouble."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from verl.workers.rollout.replica import TokenOutput

from tests.assets.fakes import FakeEngine, FakeLoop, contexts, runner_of
from tests.assets.tiny_model import write_model
from tests.assets.worker import Client, Queue, Scorer, make_worker, prompt
from verl_atpo.config import AtpoConfig, ConfigError, ExpansionConfig, GrowthConfig, SharedTurns
from verl_atpo.failure import EngineOutage
from verl_atpo.method.scheme import find_scheme
from verl_atpo.report.metrics import WorkerStats, step_metrics, tree_stats
from verl_atpo.rollout.grower import TreeGrower, grow_and_ask
from verl_atpo.rollout.rows import leaf_outputs
from verl_atpo.schemes.a2tgpo.gains import information_gains
from verl_atpo.schemes.a2tgpo.questions import GoldAnswers, PromptedAnswer
from verl_atpo.tree.recording import Generation, Turn
from verl_atpo.tree.tree import ROOT, TurnTree

SAID = PromptedAnswer([200, 201, 202, 203], 1)  # one token before the answer, three of it
GROWTH = GrowthConfig(2, 0.0)
DOCS = Path(__file__).parents[3] / "docs" / "a2tgpo.md"


def told(context: list[int]) -> float:
    """What the scoring engine says of the answer in a context: a number of its own for each."""
    return -((sum(context) * 31 + len(context)) % 97) / 10 - 0.1


class Scoring(FakeEngine):
    """Scores prompts as vLLM does; ``cached`` are the tokens that its cache holds of each prompt."""

    def __init__(self, *args: Any, cached: int = 0, trouble: list[Exception] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cached, self.trouble = cached, trouble or []
        self.scored: list[tuple[list[int], dict[str, Any]]] = []

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        sampling = kwargs["sampling_params"]
        if "prompt_logprobs" not in sampling:
            return await super().generate(request_id, prompt_ids=prompt_ids, **kwargs)
        self.scored.append((prompt_ids, sampling))
        await asyncio.sleep(0)
        if self.trouble:
            raise self.trouble.pop()
        assert request_id == "tree" and prompt_ids[-4:] == SAID.token_ids
        mean = told(prompt_ids[:-4])
        cached = 0 if sampling["skip_reading_prefix_cache"] else self.cached
        rows = [[math.nan] if at < cached else [mean] for at in range(len(prompt_ids) - 1)]
        rows[-3:] = [[mean - 1], [mean], [mean + 1]] if cached < len(prompt_ids) - 3 else [[math.nan]] * 3
        fields = {"prompt_logprobs": [*rows, [0.0]], "num_cached_tokens": cached}
        return TokenOutput(token_ids=[5], log_probs=None, extra_fields=fields)


async def grown_with(engine: Scoring, loop: FakeLoop | None = None, longest: float = math.inf, seed: int = 0):
    config = AtpoConfig(expansion=ExpansionConfig(3, 2, 2), growth=GROWTH)
    answers = GoldAnswers(engine, "tree", SAID, GROWTH, longest)
    runner = dataclasses.replace(runner_of(engine, loop or FakeLoop(5)), on_context=answers.ask)
    return await grow_and_ask(TreeGrower(config, runner.trajectory, random.Random(seed)), answers)


def contexts_of(tree: TurnTree) -> list[list[int]]:
    """Of every node but the root, the slow way."""
    return [contexts(tree.generations(tree.path(node.index)))[-1] for node in tree.nodes[1:]]


@pytest.mark.parametrize("drift", [False, True])
async def test_every_context_is_asked_once_and_every_node_knows_its_own(drift):
    engine = Scoring(1, stop=0.2)
    grown = await grown_with(engine, FakeLoop(5, drift))
    expected = [told(context) for context in contexts_of(grown.tree)]
    assert grown.answers.log_probs[1:] == pytest.approx(expected)
    assert grown.answers.log_probs[ROOT] is None
    distinct = {tuple(context) for context in contexts_of(grown.tree)}
    asked = [tuple(prompt[:-4]) for prompt, _ in engine.scored]
    assert len(asked) == len(set(asked)) and set(asked) == distinct
    assert len(asked) < len(grown.tree.nodes) - 1  # the chains share the prompt, branches their context
    assert all(sampling["max_tokens"] == 1 for _, sampling in engine.scored)
    costs = grown.answers.costs
    assert (costs.requests, costs.unknown) == (len(asked), 0)
    assert costs.tokens == sum(len(prompt) for prompt, _ in engine.scored)


async def test_no_branch_waits_for_an_answer():
    class Slow(Scoring):
        async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
            if "prompt_logprobs" in kwargs["sampling_params"]:
                await released.wait()
            return await super().generate(request_id, prompt_ids=prompt_ids, **kwargs)

    released = asyncio.Event()
    engine = Slow(2, stop=0.2)
    growing = asyncio.create_task(grown_with(engine))
    for _ in range(2000):
        await asyncio.sleep(0)
    assert not growing.done() and engine.scored == []
    sampled = engine.calls
    released.set()
    grown = await growing
    assert engine.calls == sampled >= len(grown.tree.nodes) - 1  # all turns were there before the first answer


async def test_what_the_cache_hides_is_asked_again_without_it():
    engine = Scoring(1, stop=0.2, cached=10_000)
    grown = await grown_with(engine)
    assert grown.answers.log_probs[1:] == pytest.approx([told(context) for context in contexts_of(grown.tree)])
    skipped = [sampling["skip_reading_prefix_cache"] for _, sampling in engine.scored]
    assert skipped.count(True) == skipped.count(False) > 0


async def test_a_warm_context_is_read_from_the_cache():
    engine = Scoring(1, stop=0.2, cached=3)  # the prompt
    grown = await grown_with(engine)
    assert not any(sampling["skip_reading_prefix_cache"] for _, sampling in engine.scored)
    assert grown.answers.costs.cached == 3 * grown.answers.costs.requests


async def test_an_outage_is_tried_again_and_one_that_stays_fails_the_tree():
    engine = Scoring(1, stop=0.2, trouble=[ConnectionError("engine gone"), RuntimeError("EngineCore died")])
    grown = await grown_with(engine)
    assert grown.answers.log_probs[1:] == pytest.approx([told(context) for context in contexts_of(grown.tree)])
    assert grown.answers.costs.requests == len({tuple(context) for context in contexts_of(grown.tree)}) + 2
    with pytest.raises(EngineOutage, match="how likely the answer is: ConnectionError: engine gone"):
        await grown_with(Scoring(1, trouble=[ConnectionError("engine gone") for _ in range(1000)]))


async def test_an_engine_without_prompt_log_probs_is_no_outage():
    class Mute(Scoring):
        async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
            return await FakeEngine.generate(self, request_id, prompt_ids=prompt_ids, **kwargs)

    with pytest.raises(ConfigError, match=r"rollout\.name=vllm"):
        await grown_with(Mute(1, stop=0.2))


async def test_where_there_is_no_room_nothing_is_known_and_nothing_is_0():
    engine = Scoring(1, stop=0.2)
    grown = await grown_with(engine, longest=12)
    for known, context in zip(grown.answers.log_probs[1:], contexts_of(grown.tree), strict=True):
        assert (known is None) == (len(context) + 4 > 12)
    assert grown.answers.costs.unknown > 0
    assert all(len(prompt) <= 12 for prompt, _ in engine.scored)


async def test_a_failed_tree_leaves_no_request_behind():
    before = asyncio.all_tasks()
    with pytest.raises(EngineOutage):
        await grown_with(Scoring(1, fail=1.0))
    assert asyncio.all_tasks() == before


async def test_rows_sum_to_their_outcomes_and_metrics_say_what_it_cost():
    grown = await grown_with(Scoring(1, stop=0.2))
    scheme = find_scheme(AtpoConfig(), "a2tgpo")
    credit = scheme.credit(grown.tree, grown.paths, grown.answers)
    rows = list(leaf_outputs(grown, credit, SharedTurns.PER_LEAF))
    for row, branch in zip(rows, grown.trajectories, strict=True):
        assert float(row.as_dict()["rm_scores"].sum()) == pytest.approx(branch.reward, abs=1e-5)
    metrics = step_metrics(WorkerStats([tree_stats(grown, 1.0, credit)]), scheme)
    gains = [gain for gain in information_gains(grown.tree, grown.answers.log_probs) if gain is not None]
    assert metrics["atpo/information_gain/mean"] == pytest.approx(sum(gains) / len(gains))
    assert metrics["atpo/information_gain/std"] > 0
    assert metrics["atpo/answer_requests"] == grown.answers.costs.requests
    assert metrics["atpo/answer_tokens"] == grown.answers.costs.tokens
    added = metrics.keys() - step_metrics(WorkerStats([tree_stats(grown, 1.0, credit)])).keys()
    costs = DOCS.read_text().partition("## What it costs")[2]
    named = {
        name
        for line in costs.splitlines()
        if line.startswith("| `")
        for name in re.findall("`([^`]+)`", line.split("|")[1])
    }
    assert named == {name.removeprefix("atpo/") for name in added}


class Letters:
    """Every pair of letters is a token, as a subword tokenizer would have it."""

    def __call__(self, text: str, add_special_tokens: bool, return_offsets_mapping: bool) -> dict[str, Any]:
        assert return_offsets_mapping and not add_special_tokens
        spans = [(at, min(at + 2, len(text))) for at in range(0, len(text), 2)]
        return {"input_ids": list(range(len(spans))), "offset_mapping": spans}


@pytest.mark.parametrize(
    ("text", "answer", "tokens", "first"),
    [
        ("say {answer}.", "Rome", 4, 2),  # sa|y |Ro|me|.
        ("say: {answer}.", "Rome", 5, 2),  # sa|y:| R|om|e.: both ends share a token, which is the answer's
        ("{answer}", "Rome", 2, 0),
        ("{x} say {answer} }", "Ro", 5, 4),  # {x|} |sa|y |Ro: other braces stay
    ],
)
def test_the_tokens_of_the_answer(text, answer, tokens, first):
    said = PromptedAnswer.of(Letters(), text, answer)
    assert (said.token_ids, said.answer) == (list(range(tokens)), first)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model"))


class ScoringClient(Client):
    """The worker tests' engine, which scores prompts too."""

    def __init__(self) -> None:
        super().__init__()
        self.scored = 0

    async def generate(self, request_id: str, *, prompt_ids: list[int], **kwargs: Any) -> TokenOutput:
        if "prompt_logprobs" not in kwargs["sampling_params"]:
            return await super().generate(request_id, prompt_ids=prompt_ids, **kwargs)
        self.scored += 1
        rows = [[-(sum(prompt_ids) % 7) - 0.5]] * len(prompt_ids)
        return TokenOutput(token_ids=[5], extra_fields={"prompt_logprobs": rows, "num_cached_tokens": 0})


A2TGPO = ("+atpo=a2tgpo", "algorithm.atpo.information_gain.prompt='w1 {answer} w2'")
TRAIN = {"validate": False, "step": 1, "sample_index": 0, "rollout_n": 0}


@pytest.mark.parametrize("truth", ["w3 w4", ["w3 w4", "w5"]])
async def test_the_worker_asks_and_publishes(model, monkeypatch, truth):
    queue, client = Queue(monkeypatch), ScoringClient()
    worker = make_worker(model, "words", *A2TGPO, client=client, scorer=Scorer(lambda: 0.5))
    fields = prompt("p1", "words", reward_model={"ground_truth": truth})
    await worker._run_prompt(fields, {"temperature": 1.0}, trajectory=TRAIN)
    assert (await worker.failures()).bug is None
    assert queue.status == {"p1": "finished"} and len(queue.rows["p1"]) == 3
    (tree,) = (await worker.take_stats()).trees
    assert client.scored == tree.of_scheme.costs.requests > 1


@pytest.mark.parametrize("truth", ["", " ", None, [], 7, {"target": "w3"}])
async def test_a_row_without_a_gold_answer_stops_the_run(model, monkeypatch, truth):
    Queue(monkeypatch)
    worker = make_worker(model, "words", *A2TGPO, client=ScoringClient(), scorer=Scorer(lambda: 0.5))
    fields = prompt("p1", "words", reward_model={"ground_truth": truth})
    await worker._run_prompt(fields, {"temperature": 1.0}, trajectory=TRAIN)
    bug = (await worker.failures()).fatal
    assert "information_gain.answer=reward_model.ground_truth cannot work" in bug and "first one is taken" in bug


def test_contexts_of_turns_that_were_made_in_pieces():
    """A turn of two generations has one context, and what follows it stands behind both."""

    def answer(*tokens: int) -> TokenOutput:
        return TokenOutput(token_ids=list(tokens), log_probs=[-1.0] * len(tokens))

    tree = TurnTree()
    first = Turn((Generation(0, [1, 2], answer(3)), Generation(0, [], answer(4))))
    node = tree.add_turn(ROOT, mean_nll=1.0, turn=first)
    tree.add_turn(node.index, mean_nll=1.0, is_leaf=True, reward=1.0, turn=Turn((Generation(1, [9], answer(5)),)))

    async def settled() -> list[float | None]:
        answers = GoldAnswers(Scoring(), "tree", SAID, GROWTH)
        answers.ask([1, 2])
        answers.ask([1, 2, 3, 9])  # the loop took token 4 away again
        return (await answers.settle(tree)).log_probs

    assert asyncio.run(settled()) == [None, pytest.approx(told([1, 2])), pytest.approx(told([1, 2, 3, 9]))]
