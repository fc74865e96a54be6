"""Batched sampling of whole conversations with the search tool, to measure accuracy without an engine."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from transformers import Qwen3ForCausalLM

from examples.hopqa.chat import ChatCodec, FinalTurn
from examples.hopqa.questions import Question
from examples.hopqa.retrieval import SearchIndex
from examples.kit.answer_reward import compute_score
from verl_atpo.tiny.sampling import sample_turns

MAX_TURNS = 6
MAX_RESPONSE_TOKENS = 192


@dataclass
class Conversation:
    """One sampled conversation.

    Attributes:
        ids: token ids, the prompt first.
        sampled: True for sampled tokens; same length as `ids`.
        turns: number of turns sampled.
        score: 1.0 if the answer is right, else 0.0.
    """

    question: Question
    ids: list[int]
    sampled: list[bool] = field(default_factory=list)
    turns: int = 0
    score: float = 0.0


def sample_conversations(
    model: Qwen3ForCausalLM,
    codec: ChatCodec,
    index: SearchIndex,
    questions: list[Question],
    temperature: float = 1.0,
) -> list[Conversation]:
    """Plays one conversation for each question and scores it by the reward function."""
    conversations = []
    for question in questions:
        prompt = codec.prompt(question.text)
        conversations.append(Conversation(question, prompt, [False] * len(prompt)))
    live = conversations
    for _ in range(MAX_TURNS):
        if not live:
            break
        turns = sample_turns(model, [c.ids for c in live], temperature)
        pairs = zip(live, turns, strict=True)
        live = [c for c, turn in pairs if _extend(c, turn, codec, index)]
    return conversations


def _extend(conversation: Conversation, turn: list[int], codec: ChatCodec, index: SearchIndex) -> bool:
    """Appends a turn and what follows it; returns whether the conversation continues."""
    prompt_length = len(codec.prompt(conversation.question.text))
    conversation.ids += turn
    conversation.sampled += [True] * len(turn)
    conversation.turns += 1
    action = codec.parse(turn)
    if isinstance(action, FinalTurn):
        text = codec.decode(conversation.ids[prompt_length:], skip_special_tokens=True)
        conversation.score = compute_score("hopqa", text, conversation.question.answer)["score"]
        return False
    observation = codec.observation(index.search(action.query))
    if len(conversation.ids) - prompt_length + len(observation) >= MAX_RESPONSE_TOKENS:
        return False
    conversation.ids += observation
    conversation.sampled += [False] * len(observation)
    return True


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a set of conversations.

    Attributes:
        overall: share of right answers, 0 to 1.
        by_hops: the same for each number of hops.
        mean_turns: turns a conversation.
        mean_tokens: response tokens a conversation, observations included.
    """

    overall: float
    by_hops: dict[int, float]
    mean_turns: float
    mean_tokens: float

    def __str__(self) -> str:
        """Describe it in one readable line."""
        hops = "  ".join(f"{hops} hops {share:.1%}" for hops, share in self.by_hops.items())
        return f"{self.overall:.1%} right ({hops}), {self.mean_turns:.1f} turns, {self.mean_tokens:.0f} tokens"


def measure(conversations: list[Conversation]) -> Accuracy:
    """Summarises scored conversations."""
    scores: dict[int, list[float]] = defaultdict(list)
    for conversation in conversations:
        scores[conversation.question.hops].append(conversation.score)
    count = len(conversations)
    tokens = sum(len(c.ids) - c.sampled.index(True) for c in conversations)
    return Accuracy(
        overall=sum(c.score for c in conversations) / count,
        by_hops={hops: sum(s) / len(s) for hops, s in sorted(scores.items())},
        mean_turns=sum(c.turns for c in conversations) / count,
        mean_tokens=tokens / count,
    )
