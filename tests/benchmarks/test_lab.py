"""The laboratory against what it replaces: transformers' model, a decoder without a cache, padded rows, verl's arms."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import math
import random
import sys

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from benchmarks import runs
from benchmarks.lab import __main__ as command
from benchmarks.lab import hopqa, text_world
from benchmarks.lab.arms import ARMS, AT_ROW_MEAN, AT_TOKEN_MEAN, PROMPTWISE, TUNING, TWICE_THE_RATE, settings
from benchmarks.lab.copies import repeats
from benchmarks.lab.engine import Engine
from benchmarks.lab.episodes import Task, converse
from benchmarks.lab.model import Weights, hidden_states, logits
from benchmarks.lab.rollout import Row, accuracy, grow
from benchmarks.lab.run import Plan, complete
from benchmarks.lab.tasks import TASKS
from benchmarks.lab.update import Batch, advantages, response_log_probs, trie_of
from examples.text_world.player import CAREFUL, play
from tests.assets.equal_contexts import example as contexts_by_hand
from verl_atpo.config import AdvantageMode, AtpoConfig, Contexts, CreditConfig
from verl_atpo.schemes.a2tgpo import A2TGPO
from verl_atpo.startup.presets import ATPO_PRESETS

TREE = settings(ARMS["tree_4"].overrides)


@functools.cache
def small_task() -> Task:
    task = hopqa.make_task(2)
    return dataclasses.replace(task, held_out=task.held_out[:12])


def grown(config: AtpoConfig, prompts: int = 2, gains: bool = False) -> tuple[Engine, list[list[Row]]]:
    task = small_task()
    engine = Engine(task.model(), 0, task.end)
    growers = [grow(engine, episode, task, config, random.Random(0), gains=gains) for episode in task.train[:prompts]]
    return engine, asyncio.run(engine.serve(growers))


def padded_log_probs(model: torch.nn.Module, groups: list[list[Row]], width: int) -> torch.Tensor:
    """What transformers says, row by row: the slow way."""
    found = []
    for row in (row.trajectory for group in groups for row in group):
        ids = torch.tensor([row.prompt_ids + row.response_ids])
        scores = model(ids).logits.log_softmax(dim=-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
        response = scores[len(row.prompt_ids) - 1 :]
        found.append(torch.nn.functional.pad(response, (0, width - len(response))))
    return torch.stack(found)


def test_model_is_transformers_model() -> None:
    model = small_task().model()
    ids = torch.randint(0, 500, (3, 40), generator=torch.Generator().manual_seed(0))

    def causal(layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, value, is_causal=True)

    weights = Weights.of(model)
    ours = logits(weights, hidden_states(weights, ids, torch.arange(40).expand(3, 40), causal))
    torch.testing.assert_close(ours, model(ids).logits)


def test_engine_says_log_probs_of_the_model_whatever_its_cache_held() -> None:
    """Branches of a tree start in cached contexts of many lengths; a padded forward pass knows of none of them."""
    _, groups = grown(TREE.atpo)
    batch = Batch.of(groups)
    expected = padded_log_probs(small_task().model(), groups, batch.mask.shape[1]) * batch.mask
    torch.testing.assert_close(batch.old_log_probs, expected, atol=2e-4, rtol=0)
    assert batch.mask.sum() > 300
    assert all(len(group) == 16 for group in groups)


def test_engine_counts_what_it_sampled_and_stops_at_the_limit() -> None:
    task = small_task()
    engine = Engine(task.model(), 0, task.end)
    prompt = task.train[0].partner().prompt
    limits = (1, 3, 40)
    asked = [engine.generate("", prompt_ids=prompt, sampling_params={"max_tokens": limit}) for limit in limits]
    answers = asyncio.run(engine.serve(asked))
    assert engine.sampled_tokens == sum(len(answer.token_ids) for answer in answers)
    for answer, limit in zip(answers, limits, strict=True):
        assert len(answer.token_ids) == limit or (len(answer.token_ids) < limit and answer.token_ids[-1] == task.end)
        assert task.end not in answer.token_ids[:-1]


def test_engine_scores_prompts_as_the_model_does_whatever_its_cache_holds() -> None:
    task = small_task()
    engine = Engine(task.model(), 0, task.end)
    prompt = task.train[0].partner().prompt
    scores = {"prompt_logprobs": 0, "max_tokens": 1}

    async def turn_then_scores() -> list:
        asked = {"prompt_ids": prompt, "sampling_params": {"max_tokens": 5}}
        sampled = (await engine.generate("", **asked)).token_ids
        said = [prompt + sampled + [7, 8, 9], [*prompt, 5, 6], prompt + sampled + [7, 8, 9]]
        answers = [engine.generate("", prompt_ids=ids, sampling_params=scores) for ids in said]
        return list(zip(said, await asyncio.gather(*answers), strict=True))

    (found,) = asyncio.run(engine.serve([turn_then_scores()]))
    counted = engine.sampled_tokens
    assert 0 < counted <= 5
    known = set()
    for ids, answer in found:
        expected = task.model()(torch.tensor([ids])).logits.log_softmax(dim=-1)[0, :-1]
        expected = expected.gather(1, torch.tensor(ids)[1:, None])[:, 0]
        *rows, end = answer.extra_fields["prompt_logprobs"]
        cached = answer.extra_fields["num_cached_tokens"]
        known.add(cached)
        assert end == [0.0] and len(rows) == len(ids) - 1 - cached
        torch.testing.assert_close(torch.tensor(rows)[:, 0], expected[cached:], atol=2e-4, rtol=0)
    assert min(known) >= len(prompt) - 1 and len(known) == 2  # the prompt, and the turn behind it, were in the cache


def test_distinct_tokens_give_the_rows_log_probs_and_gradient() -> None:
    _, groups = grown(TREE.atpo)
    width = Batch.of(groups).mask.shape[1]
    weight = torch.randn(32, width, generator=torch.Generator().manual_seed(1))
    models = [small_task().model() for _ in range(2)]
    ours = response_log_probs(Weights.of(models[0]), groups, [trie_of(group) for group in groups], width)
    theirs = padded_log_probs(models[1], groups, width)
    torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=0)
    for values in (ours, theirs):
        (values * weight).sum().backward()
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=2e-3 * float(other.grad.abs().max()), rtol=0)


def test_advantages_are_the_trees() -> None:
    """A leaf's turn has its z-scored outcome; with verl's GRPO estimator every token of a row has it."""
    _, groups = grown(TREE.atpo, prompts=8)
    batch = Batch.of(groups)
    outcomes = [row.trajectory.reward_score for group in groups for row in group]
    assert batch.rewards.sum(dim=1).tolist() == pytest.approx(outcomes, abs=1e-5)
    ours, grpo = advantages(batch, TREE), advantages(batch, settings(ARMS["entropy_branching"].overrides))
    last = batch.mask.shape[1] - 1 - batch.mask.flip(1).argmax(dim=1)
    at_end = torch.arange(len(last)), last
    assert grpo.abs().max() > 0.5
    # z-scores over the population (ours) and over the sample of 16 (verl's GRPO)
    torch.testing.assert_close(ours[at_end], grpo[at_end] * (16 / 15) ** 0.5, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(ours, grpo)


def test_unbiased_trees_have_as_many_leaves_and_advantages_that_say_something() -> None:
    """Weights times N average to 1 over the first turns, so a tree whose outcomes are all equal gives nothing."""
    arm = settings(ARMS["unbiased"].overrides)
    _, groups = grown(arm.atpo, prompts=8)
    assert [len(group) for group in groups] == [16] * 8
    given = advantages(Batch.of(groups), arm).view(8, 16, -1)
    for group, tree in zip(groups, given, strict=True):
        outcomes = {row.trajectory.reward_score for row in group}
        assert bool(tree.abs().max() > 0.01) == (len(outcomes) > 1)


def test_gigpo_adds_what_a_turn_is_worth_beside_others_that_read_the_same() -> None:
    """The slow way, from rows alone: a turn's state is the stretch of observed tokens before it, none at first."""
    arm = settings(ARMS["gigpo"].overrides)
    _, groups = grown(arm.atpo, prompts=8)
    given = iter(advantages(Batch.of(groups), arm))
    episodes = iter(advantages(Batch.of(groups), settings(ARMS["grpo"].overrides)))
    pooled = 0
    for group in groups:
        states: dict[tuple[int, ...], list[float]] = {}
        for row in group:
            for state, _ in turns_of(row):
                states.setdefault(state, []).append(row.trajectory.reward_score)
        outcomes = torch.tensor([row.trajectory.reward_score for row in group])
        scale = outcomes.std() + 1e-6 if len(set(outcomes.tolist())) > 1 else math.inf
        for row in group:
            ours, episode = next(given), next(episodes)
            for state, place in turns_of(row)[:-1]:  # a last turn of one token has its outcome instead
                own, others = row.trajectory.reward_score, states[state]
                step = (own - sum(others) / len(others)) / scale
                assert float(ours[place]) == pytest.approx(float(episode[place] + step), abs=1e-4)
                pooled += bool(state) and step != 0
    assert pooled > 10


def test_repeats_are_counted() -> None:
    """Chains X-[5]->Y, X-[5]->Z, X-[6]->Y, Z: X three times of 7 turns; Y and Z behind [5] are siblings, 2 of 3."""
    tree = contexts_by_hand()
    assert repeats([tree, tree]) == {
        "turns": "14",
        "copies": "42.9%",
        "later turns with siblings, separate": "0.0%",
        "later turns with siblings, merged": "66.7%",
        "later turns with siblings, states": "66.7%",
    }


def turns_of(row: Row) -> list[tuple[tuple[int, ...], int]]:
    """What each turn of a row read last, and where it begins."""
    marked = list(zip(row.trajectory.response_ids, row.trajectory.response_mask, strict=True))
    starts = [at for at, (_, mask) in enumerate(marked) if mask and (at == 0 or not marked[at - 1][1])]
    stretches = [itertools.takewhile(lambda pair: not pair[1], reversed(marked[:at])) for at in starts]
    return [(tuple(token for token, _ in stretch), at) for stretch, at in zip(stretches, starts, strict=True)]


@pytest.mark.parametrize("name", ["a2tgpo", "a2tgpo_chains"])
def test_information_gains_tell_turns_of_a_row_apart(name) -> None:
    """The last turn has its z-scored outcome alone; the others have more or less, also where outcomes are equal."""
    arm = settings(ARMS[name].overrides)
    _, groups = grown(arm.atpo, prompts=8, gains=True)
    batch = Batch.of(groups)
    given = advantages(batch, arm)
    outcomes = [row.trajectory.reward_score for group in groups for row in group]
    assert batch.rewards.sum(dim=1).tolist() == pytest.approx(outcomes, abs=1e-5)
    last = batch.mask.shape[1] - 1 - batch.mask.flip(1).argmax(dim=1)
    at_end = given[torch.arange(len(last)), last].view(8, 16)
    assert at_end.mean(dim=1).abs().max() < 1e-5
    spread = (given - given.gather(1, last[:, None])) * batch.mask
    several = (torch.diff(batch.mask, dim=1) == 1).any(dim=1)
    assert several.sum() > 32
    assert (spread[several].abs().amax(dim=1) > 1e-3).float().mean() > 0.5
    assert spread[~several].abs().max() < 1e-6 if (~several).any() else True
    assert given[batch.mask == 0].abs().max() < A2TGPO(arm.atpo).settings.clip  # how much wider clip ranges are


def test_a_task_without_gold_answers_has_no_information_gains() -> None:
    task = dataclasses.replace(small_task(), tokenizer=None)
    engine = Engine(task.model(), 0, task.end)
    with pytest.raises(ValueError, match="use hopqa"):
        asyncio.run(grow(engine, task.train[0], task, TREE.atpo, random.Random(0), gains=True))


def test_shared_turns_are_trained_in_one_row_where_that_is_asked() -> None:
    """The same trees: every sampled token that a row leaves out is trained in another row of its tree."""
    once = settings(ARMS["tree_4_once"].overrides).atpo
    for all_rows, rows in zip(grown(TREE.atpo)[1], grown(once)[1], strict=True):
        distinct, trained = set(), 0
        for per_leaf, own in zip(all_rows, rows, strict=True):
            assert per_leaf.trajectory.response_ids == own.trajectory.response_ids
            trained += sum(own.trajectory.response_mask)
            ids, mask = per_leaf.trajectory.response_ids, per_leaf.trajectory.response_mask
            distinct |= {tuple(ids[: place + 1]) for place, bit in enumerate(mask) if bit}
        sampled = sum(sum(row.trajectory.response_mask) for row in all_rows)
        assert len(distinct) <= trained < sampled


def test_continuous_growth_has_as_many_leaves() -> None:
    _, groups = grown(settings(ARMS["continuous_8"].overrides).atpo)
    assert [len(group) for group in groups] == [16, 16]


def test_a_run_taken_up_again_is_the_run(tmp_path) -> None:
    """Stopped after its second validation, by an exception where a signal would come."""

    class Stopped(Exception):
        pass

    def stop_at_2(line: str) -> None:
        if "step   3/3" in line:
            raise Stopped

    plan = Plan("hopqa", "tree_4", 2, 0, steps=3, test_every=1)
    whole = complete(plan, small_task(), tmp_path / "whole.jsonl", tmp_path, print)
    with pytest.raises(Stopped):
        complete(plan, small_task(), tmp_path / "parts.jsonl", tmp_path, stop_at_2)
    assert not (tmp_path / "parts.jsonl").exists()
    again = complete(plan, small_task(), tmp_path / "parts.jsonl", tmp_path, print)
    for record in (whole, again):
        for point in record["curve"]:
            del point["seconds"]
    assert again == whole
    (kept,) = runs.read(tmp_path / "parts.jsonl")
    assert [point["step"] for point in kept["curve"]] == [0, 1, 2, 3]
    assert {"arm", "task", "world", "seed", "curve"} <= set(kept)


def test_arms_mean_what_verl_makes_of_them() -> None:
    grpo, paper, verl = (settings(ARMS[name].overrides) for name in ("grpo", "paper", "verl_atpo"))
    assert (grpo.atpo.expansion.leaves, grpo.atpo.expansion.rounds, grpo.estimator, grpo.loss) == (
        16,
        0,
        "grpo",
        "vanilla",
    )
    assert paper.atpo.expansion.penalty_counts.value == "siblings"
    assert (verl.clip, verl.loss, verl.aggregation) == ((0.003, 0.004), "atpo", "seq-mean-token-mean")
    own = {name: settings(arm.overrides) for name, arm in ARMS.items() if not name.startswith("verl_")}
    rows = {name: each for name, each in own.items() if name not in AT_TOKEN_MEAN}
    assert {each.aggregation for each in rows.values()} == {"seq-mean-token-mean"}
    assert {own[name].aggregation for name in AT_TOKEN_MEAN} == {"token-mean"}
    assert own["tree_tm"] == dataclasses.replace(own["tree"], aggregation="token-mean")
    untuned = {name: each for name, each in own.items() if name not in {*TUNING, *TWICE_THE_RATE}}
    assert {each.learning_rate for each in untuned.values()} == {grpo.learning_rate}
    assert own["tree"].atpo == AtpoConfig.from_mapping(ATPO_PRESETS["tree"]["algorithm"]["atpo"])
    earlier = CreditConfig(contexts=Contexts.MERGED, advantage=AdvantageMode.DIFF_LOCALGLOBAL)
    assert own["tree_6_states"].atpo == AtpoConfig(credit=earlier)
    assert own["tree_6_states_lr0.001"] == dataclasses.replace(own["tree_6_states"], learning_rate=1e-3)
    for name in ("grpo_8", "grpo_12", "tree"):
        assert own[f"{name}_lr0.001"] == dataclasses.replace(own[name], learning_rate=1e-3)
    assert own["tree_refilled"] == dataclasses.replace(own["tree"], filter_groups=True)
    assert own["gspo_clip0.13"] == dataclasses.replace(own["gspo"], clip=(0.1, 0.13))
    assert {name for name, each in own.items() if each.atpo.credit.scheme == "shrunk"} == {
        "tree", "tree_entropy", "tree_muted", "tree_tm", "tree_muted_tm", "tree_entropy_tm", "chains_12_shrunk_tm",
        "grpo_muted", "grpo_12_muted_tm", "tree_adaptive_12", "tree_refilled", "tree_lr0.001", "tree_weighted",
    }  # fmt: skip
    added = {*AT_TOKEN_MEAN, *AT_ROW_MEAN, *PROMPTWISE}
    leaves = {name: each.atpo.expansion.leaves for name, each in untuned.items() if name not in added}
    assert {name: count for name, count in leaves.items() if count != 16} == {
        "grpo_8": 8, "grpo_12": 12, "tree_6": 12, "tree_8": 8, "grpo_32": 32, "tree_32": 32,
        "tree_6_states": 12, "tree_6_random": 12, "tree_6_means": 12, "tree_6_token": 12, "chains_12_states": 12,
        "tree_6_states_noise": 12, "tree_weighted": 12,
    }  # fmt: skip


def test_filtered_groups_hold_signal(tmp_path) -> None:
    plan = Plan("hopqa", "dapo", 2, 0, steps=1, test_every=1)
    record = complete(plan, small_task(), tmp_path / "runs.jsonl", tmp_path, print)
    plain = complete(dataclasses.replace(plan, arm="grpo"), small_task(), tmp_path / "runs.jsonl", tmp_path, print)
    assert record["curve"][1]["sampled_tokens"] > plain["curve"][1]["sampled_tokens"]


def test_command_runs_what_is_missing(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(TASKS, "hopqa", lambda world: small_task())
    monkeypatch.setattr(command.os, "nice", lambda by: by)
    arguments = [
        "lab",
        "--arms",
        "grpo",
        "tree_4",
        "--worlds",
        "2",
        "--seeds",
        "0",
        "--steps",
        "1",
        "--test-every",
        "1",
    ]
    monkeypatch.setattr(
        sys, "argv", [*arguments, "--out", str(tmp_path / "out.jsonl"), "--work", str(tmp_path / "work")]
    )
    command.main()
    table = tmp_path / "out.jsonl"
    assert [run["arm"] for run in runs.read(table)] == ["grpo", "tree_4"]
    table.write_text(table.read_text().splitlines(keepends=True)[1])
    capsys.readouterr()
    command.main()
    said = capsys.readouterr().out
    assert said.startswith("1 of 2 runs are done")
    assert "hopqa_tree" not in said


def test_conversation_ends_where_verl_would_end_it() -> None:
    """Limits of turns and tokens, with a partner that always answers 10 tokens and a client that says 5."""

    class Client:
        async def generate(self, request_id, *, prompt_ids, sampling_params):
            said = min(5, sampling_params["max_tokens"])
            return dataclasses.make_dataclass("A", ["token_ids", "log_probs"])([1] * said, [-1.0] * said)

    class Partner:
        def __init__(self) -> None:
            self.prompt = [7, 7]

        def answer(self, turn_ids):
            return (2,) * 10

        def reward(self, response_ids):
            return float(len(response_ids))

    def played(turns: int, tokens: int):
        return asyncio.run(converse(Client(), Partner(), hopqa.Limits(turns, tokens)))

    assert played(turns=2, tokens=100).reward_score == 20  # turn, observation, turn
    assert played(turns=9, tokens=33).response_mask == ([1] * 5 + [0] * 10) * 2 + [1] * 3  # the third turn is cut
    assert len(played(turns=9, tokens=30).response_ids) == 20  # a second observation would reach the limit


def test_text_world_is_played_to_its_goal() -> None:
    """A careful player's actions, written in the model's words."""
    rng = random.Random(0)
    task_games = text_world.draw_games(3, rng)
    chat = text_world.WorldChat(text_world.build_tokenizer())
    for game in task_games:
        partner = text_world.Play(game, chat)
        assert partner.reward([]) == 0.0
        for action in play(game, CAREFUL, rng).actions:
            assert partner.answer(chat.call("", action)) is not None
        assert partner.reward([]) == 1.0
        assert partner.answer(chat.done()) is None


def test_text_world_keeps_its_warm_start(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_world, "WARM_STARTS", tmp_path)
    monkeypatch.setattr(text_world, "DEMOS", 64)
    for name in ("TRAIN_PER_LEVEL", "HELD_OUT_PER_LEVEL"):
        monkeypatch.setattr(text_world, name, 2)
    task = text_world.make_task(0)
    trained, kept = task.model(), task.model()
    assert [file.name for file in tmp_path.iterdir()] == ["text_world0.safetensors"]
    for one, other in zip(trained.parameters(), kept.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    engine = Engine(kept, 0, task.end)
    played = asyncio.run(accuracy(engine, task))
    assert set(played) == {"2rooms", "3rooms", "4rooms"}
