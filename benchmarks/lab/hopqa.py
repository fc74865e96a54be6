"""HopQA in the laboratory: worlds and warm starts of the learning comparison, with more held-out questions."""

from __future__ import annotations

import functools
import random
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_model
from transformers import Qwen3ForCausalLM

from benchmarks.lab.episodes import Episode, Limits, Task
from benchmarks.learning.task import HOPS, keep_warm_start, preparation, warm_start_file
from examples.hopqa.chat import ChatCodec, FinalTurn, build_tokenizer
from examples.hopqa.lexicon import make_lexicon
from examples.hopqa.questions import Question, sample_questions
from examples.hopqa.retrieval import SearchIndex
from examples.hopqa.world import make_split_worlds
from examples.kit.answer_reward import compute_score
from verl_atpo.tiny.model import build_model

TRAIN_PER_HOP, HELD_OUT_PER_HOP = 400, 200
LIMITS = Limits(turns=8, tokens=256)


class Searches:
    """Answers searches with passages; judges the last turn's answer."""

    def __init__(self, question: Question, codec: ChatCodec, search: functools._lru_cache_wrapper[str]) -> None:
        self.prompt = codec.prompt(question.text)
        self._question, self._codec, self._search = question, codec, search

    def answer(self, turn_ids: list[int]) -> Sequence[int] | None:
        """A passage, unless the turn is the final one."""
        action = self._codec.parse(turn_ids)
        return None if isinstance(action, FinalTurn) else self._codec.observation(self._search(action.query))

    def reward(self, response_ids: list[int]) -> float:
        """1 if the answer is right, else 0."""
        text = self._codec.decode(response_ids, skip_special_tokens=True)
        return compute_score("hopqa", text, self._question.answer)["score"]


def make_task(world: int) -> Task:
    """The task in a world; trains its warm start, minutes, where none is kept yet."""
    lexicon = make_lexicon(world)
    tokenizer = build_tokenizer(lexicon)
    codec = ChatCodec(tokenizer)
    worlds = make_split_worlds(lexicon, world)
    entities = [entity for each in worlds for entity in each.entities.values()]
    search = functools.lru_cache(maxsize=None)(SearchIndex((e.name, e.passage()) for e in entities).search)
    rng = random.Random(f"questions-{world}")
    train = sample_questions(worlds[0], TRAIN_PER_HOP, rng, HOPS)
    held_out = sample_questions(worlds[1], HELD_OUT_PER_HOP, rng, HOPS)

    def episodes(questions: list[Question]) -> list[Episode]:
        return [
            Episode(f"{each.hops}hop", functools.partial(Searches, each, codec, search), each.answer)
            for each in questions
        ]

    def model() -> Qwen3ForCausalLM:
        _need_warm_start(world)
        started = build_model(tokenizer, world)
        load_model(started, warm_start_file(world))
        return started

    return Task(episodes(train), episodes(held_out), LIMITS, int(tokenizer.eos_token_id), model, tokenizer)


def _need_warm_start(world: int) -> None:
    if not warm_start_file(world).exists():
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(preparation(Path(folder), world), check=True)
            keep_warm_start(Path(folder), world)
