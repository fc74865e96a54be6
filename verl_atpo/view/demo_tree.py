"""A made-up tree of an agent that learns to search, as a training run dumps it.

Everything in it is made up, the credit too: values are means of the rewards below, baselines means of the other turns
in the same context. It needs nothing of the package but the record's schema, so that the viewer installs alone.
"""

from __future__ import annotations

import dataclasses
import json
import random
import statistics

from verl_atpo.report.record import (
    FORMAT,
    Difference,
    Node,
    Record,
    SelectionRecord,
    ToolUse,
    TrajectoryRecord,
    summarize,
)

ROOT = 0
CHAINS, ROUNDS, PER_ROUND = 8, 2, 4
PENALTY = 0.05
"""Nats that an earlier expansion of a turn takes off its score."""
END, START = "<|im_end|>", "<|im_start|>"
START_NAME = "20260102-030405-demo"
PEOPLE = ("Ada Merrin", "Tomas Okoye", "Lin Aoki", "Petra Valdés", "Jonas Brandt", "Mira Sahin", "Sofia Conti")
PLACES = ("Velden", "Port Amri", "Kasimov", "Ostrava Hill", "San Telmo", "Greifen", "Lake Tolva", "Nordhavn")
RELATIONS = ("birthplace", "employer", "mentor", "rival", "hometown of the mentor", "founder of the employer")
ASIDES = (
    "I should look that up before I answer.",
    "The passage names the mentor, not the employer, so one more search is needed.",
    "That is the same person as before; the other source disagrees on the year.",
    "I am fairly sure now.",
    "Perhaps the first search was too broad.",
)


@dataclasses.dataclass
class _Turn:
    """A turn of the tree that grows: what the policy said, and what happened around it."""

    index: int
    parent: int
    depth: int
    round: int
    trajectory: int
    observation: str
    text: str
    nlls: list[int]
    tool: ToolUse | None
    generation_s: float
    tool_s: float
    reward: float | None = None

    @property
    def mean_nll(self) -> float:
        return sum(self.nlls) / len(self.nlls) / 100


class DemoTree:
    """Grows one made-up tree.

    Args:
        seed: seed of everything in it.
        step: training step, from 1; later steps search better.
        prompt: number of the question; equal numbers are the same question.
        skill: chance that a search is a good one.
        words: number of words of a turn, about.
    """

    def __init__(self, seed: int, step: int, prompt: int, skill: float, words: int = 12) -> None:
        self._rng = random.Random(seed)
        self._step, self._skill, self._words = step, skill, words
        question = random.Random(prompt)
        self._person, self._answer = question.choice(PEOPLE), question.choice(PLACES)
        self._hops = question.randint(1, 4)
        self._relation = RELATIONS[prompt % len(RELATIONS)]
        self._prompt = f"What is the {self._relation} of {self._person} ({prompt})?"
        self._uid = f"demo-{step:04d}-{seed:08x}"
        self._turns: dict[int, _Turn] = {}
        self._trajectories: list[TrajectoryRecord] = []
        self._selected: list[int] = []
        self._clock = 0.0
        self._outages = 0

    def record(self) -> Record:
        """Grow the tree, and describe it."""
        for _ in range(CHAINS):
            self._grow(ROOT, 0, None)
        for round in range(1, ROUNDS + 1):
            self._clock = max(each["ended_s"] or 0.0 for each in self._trajectories)
            for selection in self._select():
                self._grow(selection["node"], round, selection)
        return self._finish()

    def _select(self) -> list[SelectionRecord]:
        scores = {turn.index: turn.mean_nll - PENALTY * self._selected.count(turn.index)
                  for turn in self._turns.values() if turn.reward is None}  # fmt: skip
        scores[ROOT] = -PENALTY * self._selected.count(ROOT)
        ordered = sorted(scores, key=lambda each: -scores[each])[:PER_ROUND]
        selections = [
            SelectionRecord(node=node, score=scores[node], penalty=PENALTY * self._selected.count(node), rank=rank,
                 candidates=len(scores))
            for rank, node in enumerate(ordered, 1)
        ]  # fmt: skip
        self._selected += ordered
        return selections

    def _path(self, index: int) -> list[int]:
        path = []
        while index != ROOT:
            path.append(index)
            index = self._turns[index].parent
        return path[::-1]

    def _grow(self, node: int, round: int, selection: SelectionRecord | None) -> None:
        rng, number = self._rng, len(self._trajectories)
        context = self._path(node)[:-1]
        parent, started = (context[-1] if context else ROOT), self._clock + rng.random() * 0.2
        found, clock, own, last = len(context), started, 0, False
        diverged = round > 0 and rng.random() < 0.01
        while not last:
            good, depth = rng.random() < self._skill, len(context) + own
            last = depth >= 6 or (found >= self._hops and rng.random() < 0.8) or rng.random() < 0.08
            turn = self._say(parent, found, good, last, round, number)
            clock += turn.generation_s + turn.tool_s
            if last:
                turn.reward = float(found >= self._hops and good)
            found, own, parent = found + (good and not last), own + 1, turn.index
            self._turns[turn.index] = turn
        self._trajectories.append(self._ended(number, parent, round, own, diverged, selection, started, clock))

    def _ended(
        self,
        number: int,
        leaf: int,
        round: int,
        own: int,
        diverged: bool,
        selection: SelectionRecord | None,
        start: float,
        end: float,
    ) -> TrajectoryRecord:
        failures = []
        if self._rng.random() < 0.015:
            self._outages += 1
            failures = ["ToolOutage: Tool 'search' is out: TimeoutError()"]
        reward = self._turns[leaf].reward or 0.0
        return TrajectoryRecord(
            number=number, leaf=leaf, round=round, own_turns=own, diverged=diverged, selection=selection,
            started_s=round_to(start), ended_s=round_to(end), failures=failures, reward=reward,
            reward_extra={"acc": reward, "format": 1.0, "answer_words": self._rng.randint(1, 4)},
        )  # fmt: skip

    def _say(self, parent: int, found: int, good: bool, last: bool, round: int, trajectory: int) -> _Turn:
        rng, index = self._rng, len(self._turns) + 1
        depth = self._turns[parent].depth + 1 if parent != ROOT else 1
        aside = " ".join(rng.choice(ASIDES) for _ in range(1 + rng.randrange(max(1, self._words // 4))))
        if last:
            answer = self._answer if good and found >= self._hops else rng.choice(PLACES)
            text, tool = f"{aside}\n<answer>{answer}</answer>{END}", None
        else:
            query = f"{self._person} {self._relation if good else rng.choice(RELATIONS)}"
            call = json.dumps({"name": "search", "arguments": {"query": query}}, ensure_ascii=False)
            text = f"<think>{aside}</think>\n<tool_call>\n{call}\n</tool_call>{END}"
            broken = rng.random() < 0.02
            tool = ToolUse(name="search", made=True, error="ValueError('empty query')" if broken else None)
        unsure = 1.0 if not good else 0.35
        nlls = [int(min(900, rng.expovariate(1 / (40 * unsure * (2 - self._skill))))) for _ in text.split(" ")]
        return _Turn(
            index, parent, depth, round, trajectory, self._observe(parent), text, nlls, tool,
            round_to(0.2 + 0.01 * len(text) * rng.random()), round_to(0.0 if last else rng.lognormvariate(-1, 0.8)),
        )  # fmt: skip

    def _observe(self, parent: int) -> str:
        if parent == ROOT:
            return ""
        tool = self._turns[parent].tool
        passage = (
            f"{self._person} worked in {self._rng.choice(PLACES)}; the mentor was {self._rng.choice(PEOPLE)}."
            if tool is None or tool["error"] is None
            else f"Error when executing tool: {tool['error']}"
        )
        return f"\n{START}user\n<tool_response>\n{passage}\n</tool_response>{END}\n{START}assistant\n"

    def _values(self) -> dict[int, float]:
        """Mean reward of the leaves below every turn, and below the root."""
        below: dict[int, list[float]] = {}
        for turn in self._turns.values():
            if turn.reward is not None:
                for index in [ROOT, *self._path(turn.index)]:
                    below.setdefault(index, []).append(turn.reward)
        return {index: statistics.fmean(rewards) for index, rewards in below.items()}

    def _differences(self, turn: _Turn, values: dict[int, float], scale: float) -> list[Difference]:
        others = [values[each.index] for each in self._turns.values()
                  if each.parent == turn.parent and each is not turn]  # fmt: skip
        term = Difference(value=values[turn.index], scale=scale)
        if others:
            return [Difference(**term, baseline=statistics.fmean(others), baseline_from="context", samples=len(others))]
        return [Difference(**term, baseline=values[turn.parent], baseline_from="parent" if turn.parent else "prompt")]

    def _finish(self) -> Record:
        values = self._values()
        deviation = statistics.pstdev(turn.reward for turn in self._turns.values() if turn.reward is not None)
        scale = 1 / deviation if deviation else 0.0
        failed = "ToolOutage: Tool 'search' is out: TimeoutError()" if self._rng.random() < 0.01 else None
        record = Record(
            format=FORMAT, uid=self._uid, global_step=self._step, start=START_NAME, data_source=f"demo_{self._hops}hop",
            ground_truth=self._answer, extra_info={"hops": self._hops, "split": "train"},
            prompt=f"{START}user\n{self._prompt}{END}\n{START}assistant\n", prompt_tokens=14 + len(self._prompt) // 5,
            template=[START, END], failed=failed, root_value=values[ROOT],
            credit={"backup": "leaf_mean", "normalize": "zscore"},
            selected=self._selected, regrown=self._outages, outages=self._outages,
            seconds=max(each["ended_s"] or 0.0 for each in self._trajectories),
            nodes=[self._node(turn, values, scale) for turn in self._turns.values()],
            trajectories=[self._with_row(each) for each in self._trajectories],
        )  # fmt: skip
        return Record(**{"summary": summarize(record), **record})

    def _node(self, turn: _Turn, values: dict[int, float], scale: float) -> Node:
        pieces = turn.text.split(" ")
        chars = [len(piece) + 1 for piece in pieces[:-1]] + [len(pieces[-1])]
        terms = self._differences(turn, values, scale)
        advantage = sum(term["scale"] * (term["value"] - term["baseline"]) for term in terms)
        made = Node(
            index=turn.index, parent=turn.parent, round=turn.round, turn=turn.depth, trajectory=turn.trajectory,
            context=turn.parent, observation=turn.observation, observation_tokens=len(turn.observation) // 4,
            text=turn.text, tokens=len(pieces), token_ids=[hash_of(piece) for piece in pieces], token_chars=chars,
            token_nll_centinats=turn.nlls, mean_nll=turn.mean_nll, is_leaf=turn.reward is not None, reward=turn.reward,
            value=values[turn.index], advantage=advantage, differences=terms, generation_s=turn.generation_s,
            tool_s=turn.tool_s,
        )  # fmt: skip
        if turn.tool is not None:
            made["tool_calls"] = [turn.tool]
        return made

    def _with_row(self, trajectory: TrajectoryRecord) -> TrajectoryRecord:
        starts, at = [], 0
        for index in self._path(trajectory["leaf"] or ROOT):
            turn = self._turns[index]
            at += len(turn.observation) // 4
            starts.append(at)
            at += len(turn.nlls)
        row = TrajectoryRecord(
            prompt_tokens=14 + len(self._prompt) // 5, response_tokens=at, starts=starts, trained_from=0
        )
        return TrajectoryRecord(**{**trajectory, **row})


def round_to(seconds: float) -> float:
    """Round to milliseconds."""
    return round(seconds, 3)


def hash_of(piece: str) -> int:
    """Make a token id up, the same for the same piece."""
    return sum(ord(character) * 31**place for place, character in enumerate(piece)) % 50000
