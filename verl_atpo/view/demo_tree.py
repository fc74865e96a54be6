"""A made-up tree of an agent that learns to search, as a training run dumps it.

It grows by the package's own selection and credit; only what the policy says, how sure it is and how long it takes is
made up.
"""

from __future__ import annotations

import dataclasses
import json
import random
from typing import Any

from verl_atpo.config import AtpoConfig, ExpansionConfig, Schedule
from verl_atpo.method.expansion import select_turns, uncertainty_score
from verl_atpo.method.scheme import find_scheme
from verl_atpo.report.record import FORMAT, Branch, Node, Pick, Record, ToolUse, summarize
from verl_atpo.tree.tree import ROOT, TurnTree

END, START = "<|im_end|>", "<|im_start|>"
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
    """What the policy said in one turn, and what happened around it."""

    node: int
    observation: str
    text: str
    nlls: list[int]
    branch: int
    tool: ToolUse | None
    generation_s: float
    tool_s: float


class DemoTree:
    """Grows one made-up tree.

    Args:
        seed: of everything in it.
        step: of training, from 1; later steps search better.
        prompt: number of the question; equal numbers are the same question.
        skill: chance that a search is a good one.
        words: mean number of words of a turn.
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
        self._expansion = ExpansionConfig(8, 4, 2, schedule=Schedule.ROUNDS)
        self._tree = TurnTree()
        self._turns: dict[int, _Turn] = {}
        self._branches: list[Branch] = []
        self._picked: list[int] = []
        self._clock = 0.0
        self._outages = 0

    def record(self) -> Record:
        """The finished tree."""
        expansion = self._expansion
        for _ in range(expansion.initial_chains):
            self._branch(ROOT, 0, None)
        for round in range(1, expansion.rounds + 1):
            self._clock = max(branch["ended_s"] or 0.0 for branch in self._branches)
            picks = [(node, self._pick(node)) for node in self._select()]
            for node, pick in picks:
                self._branch(node, round, pick)
        return self._finish()

    def _select(self) -> list[int]:
        picks = select_turns(self._tree, self._expansion.branches_per_round, self._expansion, self._rng)
        self._picked += picks
        return picks

    def _pick(self, node: int) -> Pick:
        candidates = [each.index for each in self._tree.nodes if not each.is_leaf]
        scores = {each: uncertainty_score(self._tree, each, self._expansion) for each in candidates}
        ordered = sorted(candidates, key=lambda each: -scores[each])
        return Pick(
            node=node,
            score=scores[node],
            penalty=(self._tree.nodes[node].mean_nll or 0.0) - scores[node],
            rank=ordered.index(node) + 1,
            candidates=len(candidates),
        )

    def _branch(self, picked: int, round: int, pick: Pick | None) -> None:
        rng, number = self._rng, len(self._branches)
        context = self._tree.path(picked)[:-1] if picked != ROOT else []
        parent, started = (context[-1] if context else ROOT), self._clock + rng.random() * 0.2
        found, clock, depth, own = len(context), started, len(context), 0
        diverged = round > 0 and rng.random() < 0.01
        while True:
            good = rng.random() < self._skill
            last = depth >= 6 or (found >= self._hops and rng.random() < 0.8) or rng.random() < 0.08
            turn = self._say(parent, found, good, last, number)
            clock += turn.generation_s + turn.tool_s
            found, depth, own = found + (good and not last), depth + 1, own + 1
            right = last and found >= self._hops and good
            node = self._tree.add_turn(
                parent, mean_nll=sum(turn.nlls) / len(turn.nlls) / 100, is_leaf=last, round=round,
                reward=float(right) if last else None,
            )  # fmt: skip
            turn.node = parent = node.index
            self._turns[node.index] = turn
            if last:
                break
        self._branches.append(self._ended(number, parent, round, own, diverged, pick, started, clock))

    def _ended(
        self, number: int, leaf: int, round: int, own: int, diverged: bool, pick: Pick | None, start: float, end: float
    ) -> Branch:
        failures = []
        if self._rng.random() < 0.015:
            self._outages += 1
            failures = ["ToolOutage: Tool 'search' is out: TimeoutError()"]
        reward = self._tree.nodes[leaf].reward or 0.0
        return Branch(
            number=number, leaf=leaf, round=round, own_turns=own, diverged=diverged, picked=pick,
            started_s=round_to(start), ended_s=round_to(end), failures=failures, reward=reward,
            reward_extra={"acc": reward, "format": 1.0, "answer_words": self._rng.randint(1, 4)},
        )  # fmt: skip

    def _say(self, parent: int, found: int, good: bool, last: bool, branch: int) -> _Turn:
        rng = self._rng
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
            0, self._observe(parent), text, nlls, branch, tool,
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

    def _finish(self) -> Record:
        atpo = AtpoConfig()
        credit, found = atpo.credit, find_scheme(atpo).credit(self._tree)
        values, advantages = found.values, found.advantages
        failed = "ToolOutage: Tool 'search' is out: TimeoutError()" if self._rng.random() < 0.01 else None
        record = Record(
            format=FORMAT, uid=self._uid, global_step=self._step, data_source=f"demo_{self._hops}hop",
            ground_truth=self._answer, extra_info={"hops": self._hops, "split": "train"},
            prompt=f"{START}user\n{self._prompt}{END}\n{START}assistant\n", prompt_tokens=14 + len(self._prompt) // 5,
            template=[START, END], failed=failed, root_value=values[ROOT],
            credit={"backup": credit.backup.value, "advantage": credit.advantage.value},
            picked=self._picked, regrown=self._outages, outages=self._outages,
            seconds=max(branch["ended_s"] or 0.0 for branch in self._branches),
            nodes=[self._node(index, values, advantages) for index in sorted(self._turns)],
            branches=[self._with_row(branch) for branch in self._branches],
        )  # fmt: skip
        return Record(summary=summarize(record), **record)

    def _node(self, index: int, values: list[Any], advantages: list[Any]) -> Node:
        node, turn = self._tree.nodes[index], self._turns[index]
        pieces = turn.text.split(" ")
        chars = [len(piece) + 1 for piece in pieces[:-1]] + [len(pieces[-1])]
        made = Node(
            index=index, parent=node.parent, round=node.round, turn=self._tree.depth(index), branch=turn.branch,
            observation=turn.observation, observation_tokens=len(turn.observation) // 4, text=turn.text,
            tokens=len(pieces), token_ids=[hash_of(piece) for piece in pieces], token_chars=chars,
            token_nll_centinats=turn.nlls, mean_nll=node.mean_nll or 0.0, is_leaf=node.is_leaf, reward=node.reward,
            value=values[index], advantage=advantages[index], generation_s=turn.generation_s, tool_s=turn.tool_s,
        )  # fmt: skip
        if turn.tool is not None:
            made["tool_calls"] = [turn.tool]
        return made

    def _with_row(self, branch: Branch) -> Branch:
        starts, at = [], 0
        for index in self._tree.path(branch["leaf"] or ROOT):
            turn = self._turns[index]
            at += len(turn.observation) // 4
            starts.append(at)
            at += len(turn.nlls)
        row = Branch(
            prompt_tokens=14 + len(self._prompt) // 5, response_tokens=at, starts=starts, trained_from=0
        )  # fmt: skip
        return Branch(**branch, **row)


def round_to(seconds: float) -> float:
    """Milliseconds are enough."""
    return round(seconds, 3)


def hash_of(piece: str) -> int:
    """A made-up token id, the same for the same piece."""
    return sum(ord(character) * 31**place for place, character in enumerate(piece)) % 50000
