"""Trees under an asynchronous trainer: weights change while they grow, and generations are stopped and go on.

verl's own client for it, with a stand-in for the engine, on a virtual clock.
"""

from __future__ import annotations

import asyncio
import json
import random
from types import SimpleNamespace
from typing import Any

from aiotools import VirtualClock
from verl.experimental.agent_loop import AgentLoopOutput
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient
from verl.workers.rollout.replica import TokenOutput

from tests.assets.fakes import PROMPT, contexts, run_loop_with
from tests.assets.trees import credit_of, outputs_of
from verl_atpo.config import AtpoConfig, ExpansionConfig, GrowthConfig, Schedule
from verl_atpo.replay.client import ReplayClient
from verl_atpo.report.describe import TreeDescriber
from verl_atpo.report.dump_file import DumpFile
from verl_atpo.rollout.grower import TreeGrower
from verl_atpo.tree.growth import GrownTree

TURNS, TURN_TOKENS = 3, 4
NEW_WEIGHTS_S = 3.5


class Remote:
    """Something whose methods are called as those of a Ray actor are."""

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        return found if name.startswith("_") or not callable(found) else SimpleNamespace(remote=found)


class Engine(Remote):
    """A token a second; new weights every 3.5 s, which stop what is running. Remembers what it said about each token.

    Attributes:
        said: (log-prob, version of the weights) of every sampled token, by the context up to and with the token.
    """

    def __init__(self) -> None:
        self.said: dict[tuple[int, ...], tuple[float, int]] = {}
        self._rng = random.Random(0)

    async def generate(self, prompt_ids: list[int], sampling_params: dict[str, Any], **kwargs: Any) -> TokenOutput:
        tokens, log_probs, version = [], [], self._version()
        for _ in range(sampling_params["max_tokens"]):
            await asyncio.sleep(1)
            if self._version() != version:
                return self._output(tokens, log_probs, version, "aborted")
            tokens.append(self._rng.randrange(10, 90))
            log_probs.append(-self._rng.random())
            self.said[(*prompt_ids, *tokens)] = (log_probs[-1], version)
        return self._output(tokens, log_probs, version, "completed")

    def _version(self) -> int:
        return int(asyncio.get_running_loop().time() // NEW_WEIGHTS_S)

    def _output(self, tokens: list[int], log_probs: list[float], version: int, why: str) -> TokenOutput:
        extra_fields = {"global_steps": version, "num_cached_tokens": 0}
        return TokenOutput(token_ids=tokens, log_probs=log_probs, stop_reason=why, extra_fields=extra_fields)


class Balancer(Remote):
    """Knows one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def require_acquire_fields(self) -> list[str]:
        return []

    async def require_release_fields(self) -> list[str]:
        return []

    async def acquire_server(self, request_id: str) -> tuple[str, Engine]:
        return "engine", super().__getattribute__("engine")

    def release_server(self, server_id: str) -> None:
        """Nothing to count."""


class Loop:
    """Three turns, with one token seen in between."""

    tools = ()

    async def run(self, session: ReplayClient, tools: list[Any]) -> AgentLoopOutput:
        context, mask = list(PROMPT), []
        for turn in range(TURNS):
            parameters = {"max_tokens": TURN_TOKENS}
            output = await session.generate("own-id", prompt_ids=context, sampling_params=parameters)
            context = context + output.token_ids
            mask += [1] * len(output.token_ids)
            if turn < TURNS - 1:
                context, mask = [*context, 100 + turn], [*mask, 0]
        response = context[len(PROMPT) :]
        return AgentLoopOutput(prompt_ids=list(PROMPT), response_ids=response, response_mask=mask, metrics={})


def grow() -> tuple[GrownTree, Engine]:
    rollout = SimpleNamespace(name="vllm", full_determinism=False)
    config = SimpleNamespace(actor_rollout_ref=SimpleNamespace(rollout=rollout))
    settings = AtpoConfig(expansion=ExpansionConfig(3, 2, 2, schedule=Schedule.ROUNDS), growth=GrowthConfig(0, 0.0))

    async def on_a_virtual_clock() -> tuple[GrownTree, Engine]:
        with VirtualClock().patch_loop():
            engine = Engine()
            run_loop = run_loop_with(FullyAsyncLLMServerClient(config, Balancer(engine)), Loop())
            return await TreeGrower(settings, run_loop, random.Random(0)).grow(), engine

    return asyncio.run(on_a_virtual_clock())


def test_every_token_keeps_the_log_prob_and_the_version_it_was_sampled_with():
    grown, engine = grow()
    assert len(grown.leaves) == 3 + 2 * 2
    spans = []
    for node in grown.tree.nodes[1:]:
        path = grown.tree.generations(grown.tree.path(node.index))
        generation, context, said = path[-1], contexts(path)[-1], []
        for token in generation.output.token_ids:
            context.append(token)
            said.append(engine.said[tuple(context)])
        assert generation.output.log_probs == [log_prob for log_prob, _ in said]
        assert len(said) == TURN_TOKENS
        assert node.mean_nll == -sum(log_prob for log_prob, _ in said) / TURN_TOKENS
        oldest, newest = grown.tree.turn(node.index).versions
        assert (oldest, newest) == (said[0][1], said[-1][1]) or (  # stopped before its first token
            oldest < said[0][1] and newest == said[-1][1]
        )
        spans.append(newest - oldest)
    assert max(spans) >= 1  # a turn of four seconds never fits between two changes of weights


def test_a_row_has_the_versions_of_its_whole_path_and_a_turn_in_the_dump_its_own(tmp_path):
    grown, _ = grow()
    rows = outputs_of(grown)
    for leaf, branch, output in zip(grown.leaves, grown.trajectories, rows, strict=True):
        versions = [grown.tree.turn(node).versions for node in grown.tree.path(leaf)]
        fields = output.as_dict()["extra_fields"]
        assert fields["min_global_steps"] == min(oldest for oldest, _ in versions)
        assert fields["max_global_steps"] == max(newest for _, newest in versions)
        assert output.extra_fields.keys() >= branch.output.extra_fields.keys()
    assert any(
        branch.replayed for branch in grown.trajectories
    )  # their first turns are older than anything they sampled themselves

    tokenizer = SimpleNamespace(
        decode=lambda ids, **_: str(ids), batch_decode=lambda batch, **_: list(map(str, batch)), all_special_tokens=()
    )
    record = TreeDescriber(tokenizer, AtpoConfig()).record(
        grown, credit_of(grown), {"uid": "u", "global_steps": 1}, seconds=1.0
    )
    dumped = json.loads(json.dumps(record))
    assert [tuple(node["versions"]) for node in dumped["nodes"]] == [
        grown.tree.turn(node.index).versions for node in grown.tree.nodes[1:]
    ]


def test_two_workers_never_write_to_one_file(tmp_path):
    """Neither on two nodes, whose process ids may be the same, nor after a restart."""
    assert DumpFile(tmp_path).path != DumpFile(tmp_path).path
