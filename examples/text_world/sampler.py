"""Batched sampling of whole games, to measure success without an engine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import torch
from transformers import Qwen3ForCausalLM

from examples.text_world.chat import WorldChat
from examples.text_world.engine import Game, World
from examples.text_world.games import MAX_ACTIONS, prompt
from verl_atpo.tiny.sampling import sample_turns


@dataclass
class Conversation:
    """One game as the model plays it: the world, and the token ids so far, the prompt first."""

    world: World
    ids: list[int]
    actions: int = 0


def sample_games(
    model: Qwen3ForCausalLM, chat: WorldChat, games: list[Game], temperature: float = 1.0
) -> list[Conversation]:
    """Plays every game until the model makes no call, or has acted ``MAX_ACTIONS`` times."""
    conversations = [Conversation(World.start(game), chat.prompt(prompt(game))) for game in games]
    live = conversations
    for _ in range(MAX_ACTIONS):
        if not live:
            break
        turns = sample_turns(model, [each.ids for each in live], temperature)
        live = [each for each, turn in zip(live, turns, strict=True) if _extend(each, turn, chat)]
    return conversations


def _extend(conversation: Conversation, turn: list[int], chat: WorldChat) -> bool:
    """Appends a turn and what is seen after it; returns whether the game continues."""
    conversation.ids += turn
    action = chat.called(turn)
    if action is None:
        return False
    conversation.actions += 1
    conversation.ids += chat.observation(conversation.world.act(action))
    return True


def success(conversations: list[Conversation]) -> dict[str, float]:
    """Share of solved games, by number of rooms and over all, 0 to 1."""
    solved = defaultdict(list)
    for each in conversations:
        for key in (f"{len(each.world.game.doors)} rooms", "overall"):
            solved[key].append(each.world.solved)
    return {key: sum(flags) / len(flags) for key, flags in sorted(solved.items())}


def measure(model: Qwen3ForCausalLM, chat: WorldChat, games: list[Game], temperature: float) -> dict[str, float]:
    """:func:`success` of sampled games, with a fixed seed."""
    torch.manual_seed(0)
    return success(sample_games(model, chat, games, temperature))
