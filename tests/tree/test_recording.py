"""What a run leaves: nothing twice, and the very contexts that the loop asked with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from verl.workers.rollout.replica import TokenOutput

from tests.assets.fakes import PROMPT, contexts
from verl_atpo.replay.client import ReplayClient
from verl_atpo.tree.recording import Generation, context_lengths, group_turns

TOKENS = st.lists(st.integers(0, 3), max_size=4)
STEPS = st.lists(st.tuples(TOKENS, st.lists(st.integers(0, 3), min_size=1, max_size=4), st.integers(0, 5)), min_size=1)
"""Per generation: what the loop adds before it, what is sampled, and how many tokens it takes away before it adds."""


def recorded(steps: list[tuple[list[int], list[int], int]]) -> tuple[list[Generation], list[list[int]]]:
    """The generations of a loop that takes these steps, and the contexts it asked with."""
    generations: list[Generation] = []
    asked: list[list[int]] = []
    context: list[int] = []
    for added, sampled, dropped in steps:
        prompt = context[: max(0, len(context) - dropped)] + added
        generations.append(Generation.after(context, prompt, TokenOutput(token_ids=sampled)))
        asked.append(prompt)
        context = prompt + sampled
    return generations, asked


@given(STEPS)
def test_the_generations_of_a_path_give_back_exactly_what_was_asked(steps):
    generations, asked = recorded(steps)
    assert contexts(generations) == asked
    assert context_lengths(generations) == [len(prompt) for prompt in asked]


@given(STEPS)
def test_a_record_holds_no_token_twice(steps):
    """It grows with what is added; a loop that takes nothing away has its whole last context, once."""
    appending = [(added, sampled, 0) for added, sampled, _ in steps]
    generations, asked = recorded(appending)
    held = sum(len(each.observed_ids) + len(each.output.token_ids) for each in generations)
    assert held == len(asked[-1]) + len(generations[-1].output.token_ids)
    assert all(each.dropped == 0 for each in generations)


def test_another_context_is_another_path():
    """The control: one token of an observation changed is one token of every later context changed."""
    generations, asked = recorded([(PROMPT, [7, 7], 0), ([100], [8], 0), ([101, 102], [9], 0)])
    generations[1].observed_ids = [103]
    changed = contexts(generations)
    assert changed[0] == asked[0] and changed[1] == [*PROMPT, 7, 7, 103]
    assert changed[2] == [*PROMPT, 7, 7, 103, 8, 101, 102] != asked[2]


def test_a_loop_that_takes_its_last_token_back_opens_a_turn():
    """As verl does for some models, whose end of turn is the first token of what comes next."""
    generations, _ = recorded([(PROMPT, [7, 50], 0), ([100], [8, 50], 1), ([], [9], 0)])
    assert [(each.dropped, each.observed_ids) for each in generations] == [(0, PROMPT), (1, [100]), (0, [])]
    assert [len(turn.generations) for turn in group_turns(generations)] == [1, 2]


async def test_a_replay_asks_for_the_whole_context_not_only_what_is_new():
    """The observation is the recorded one; the prompt before it is not."""

    class Silent:
        async def generate(self, request_id: str, *, prompt_ids: list[int]) -> TokenOutput:
            return TokenOutput(token_ids=[7], log_probs=[0.0])

    first = ReplayClient(Silent(), None)
    await first.generate("x", prompt_ids=PROMPT)
    await first.generate("x", prompt_ids=[*PROMPT, 7, 100])
    for prompt, replayed in ((PROMPT, 2), ([*PROMPT[:-1], 9], 0)):
        branch = ReplayClient(Silent(), None, first.generations)
        await branch.generate("x", prompt_ids=prompt)
        await branch.generate("x", prompt_ids=[*prompt, 7, 100])
        assert (branch.replayed, branch.diverged) == (replayed, replayed == 0)
