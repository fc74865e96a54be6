"""Agent loops with one bug each, and one that meets outages: the words loop, spoilt."""

from __future__ import annotations

import asyncio
from typing import Any

from verl.experimental.agent_loop import AgentLoopOutput

from tests.assets.words_loop import WordsLoop


class MissingKey(WordsLoop):
    """Looks up what is not there."""

    async def observe(self, sampled: list[int]) -> list[int]:
        return {}["weather"]


class TwoOutputs(WordsLoop):
    """Returns two outputs for one trajectory, as loops with context management do."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> list[AgentLoopOutput]:  # type: ignore[override]
        return [await super().run(sampling_params, **kwargs), await super().run(sampling_params, **kwargs)]


class Replaced(WordsLoop):
    """Runs twice, and returns what the second run made only."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        await super().run(sampling_params, **kwargs)
        return await super().run(sampling_params, **kwargs)


class Forgetful(WordsLoop):
    """Rewrites its context: an answer does not hold what was sampled."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_ids = output.response_ids[::-1]
        return output


class Overlapping(WordsLoop):
    """Generates twice at the same time, and swallows what comes of it."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        prompt = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        asked = [
            self.server_manager.generate(request_id="words", prompt_ids=prompt, sampling_params=sampling_params)
            for _ in range(2)
        ]
        await asyncio.gather(*asked, return_exceptions=True)
        return await super().run(sampling_params, **kwargs)


class Unplugged(WordsLoop):
    """Asks a service that is not there, without verl's tools."""

    async def observe(self, sampled: list[int]) -> list[int]:
        raise ConnectionError("no route to the weather service")


class AllOnes(WordsLoop):
    """Trains observations too: its mask is 1 everywhere."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_mask = [1] * len(output.response_ids)
        return output


class EndToken(WordsLoop):
    """Appends an end token that nobody sampled."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_ids, output.response_mask = [*output.response_ids, 2], [*output.response_mask, 1]
        output.response_logprobs = [*output.response_logprobs, 0.0]
        return output


class FewLogProbs(WordsLoop):
    """Returns the log-probs of its last turn only."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_logprobs = output.response_logprobs[-3:]
        return output


class NoLogProbs(WordsLoop):
    """Returns no log-probs."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_logprobs = None
        return output


class NoLogProbsAsked(WordsLoop):
    """Works with an engine that returns no log-probs."""

    async def generate(self, context: list[int], sampling_params: dict[str, Any]) -> Any:
        output = await super().generate(context, sampling_params)
        return output.model_copy(update={"log_probs": [0.0] * len(output.token_ids)})

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_logprobs = None
        return output


class TokenizedAgain(WordsLoop):
    """Tokenizes the text of a turn again, and another token comes out."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        output.response_ids[1] = 3
        return output


class AnotherPrompt(WordsLoop):
    """Asks the engine with a prompt that it does not return."""

    async def generate(self, context: list[int], sampling_params: dict[str, Any]) -> Any:
        return await super().generate([*context[:1], 3, *context[2:]], sampling_params)


class Beside(WordsLoop):
    """Puts its response together beside the prompts: the last turn is missing."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        for field in ("response_ids", "response_mask", "response_logprobs"):
            setattr(output, field, getattr(output, field)[:-3])
        return output


class SelfCheck(WordsLoop):
    """Asks twice about its answer, and returns neither."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        context = [*output.prompt_ids, *output.response_ids]
        for _ in range(2):
            context += await self.observe(context[-3:])
            context += (await self.generate(list(context), sampling_params)).token_ids
        return output


class LeftTask(WordsLoop):
    """Leaves a task that goes on asking the engine."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        output = await super().run(sampling_params, **kwargs)
        context = [*output.prompt_ids, *output.response_ids]

        async def go_on() -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                context.extend(await self.observe(context[-3:]))
                context.extend((await self.generate(list(context), sampling_params)).token_ids)

        self.left = asyncio.create_task(go_on())
        return output


class NeverAsks(WordsLoop):
    """Returns a masked token where its sandbox did not come up."""

    up = False

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        if type(self).up:
            return await super().run(sampling_params, **kwargs)
        prompt_ids = await self.ct_build_initial_tokens(list(kwargs["raw_prompt"]))
        return AgentLoopOutput(
            prompt_ids=prompt_ids, response_ids=[2], response_mask=[0], reward_score=0.0, num_turns=1, metrics={}
        )


class SometimesAsks(NeverAsks):
    """The same, of every second trajectory."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        SometimesAsks.up = not SometimesAsks.up
        return await super().run(sampling_params, **kwargs)
