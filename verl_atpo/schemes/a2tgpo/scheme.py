"""The credit scheme A²TGPO: credit of turns, questions to the engine, requirements on verl."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from verl_atpo.config import AtpoConfig, Backup, CreditConfig
from verl_atpo.method.credit import Number, Outcomes, node_values, normalization
from verl_atpo.method.scheme import Credit, Known, Questions, Scheme, register_scheme
from verl_atpo.schemes.a2tgpo.gains import information_gains, mean_over_rows, row_credits
from verl_atpo.schemes.a2tgpo.settings import InformationGainConfig
from verl_atpo.tree.tree import TurnTree


class GainStats(NamedTuple):
    """Statistics of one tree.

    Attributes:
        gains: information gain of each turn of which it is known, nats/token.
        costs: cost of the requests for the gold answer.
    """

    gains: list[float]
    costs: Any


@register_scheme
class A2TGPO(Scheme):
    """Credit by the z-score of a trajectory's outcome plus a discounted sum of z-scored information gains.

        advantage of turn k = z(outcome) + alpha D_k;  of the last turn z(outcome)
        clip range of turn k = (1 + beta (2 sigmoid(z_k) - 1)) times the usual one

    with D_k and z_k of :mod:`verl_atpo.schemes.a2tgpo.gains`. Rows carry alpha D_k, which is not scaled, and the change
    of the clip range as the second number of the turn.
    """

    name = estimator = loss = "a2tgpo"
    settings_class, settings_name = InformationGainConfig, "information_gain"
    carries_after = True

    def evaluate(self, tree: TurnTree, zero: float) -> tuple[Known, Known]:
        """Compute the values of ``paper``; advantages are of rows, not of nodes: see :meth:`credit`."""
        return node_values(tree, self.config.backup), [None] * len(tree.nodes)

    def credit(self, tree: TurnTree, paths: Sequence[Sequence[int]] | None = None, answers: Any = None) -> Credit:
        """Credit a tree as :class:`Scheme` does; one that failed before its questions were answered has values only."""
        plain = super().credit(tree, [])
        if answers is None or not paths:
            return plain
        outcomes = [tree.nodes[path[-1]].reward or 0.0 for path in paths]
        zero, factor = normalization(Outcomes.of(outcomes), self.config.normalize)
        rows = row_credits(tree, answers.log_probs, paths, self.settings)
        scaled = [
            [(outcome - zero) * factor + turn.advantage for turn in row]
            for outcome, row in zip(outcomes, rows, strict=True)
        ]
        gains = information_gains(tree, answers.log_probs)
        return Credit(
            plain.values,
            mean_over_rows(paths, scaled, len(tree.nodes)),
            rows,
            outcomes,
            zero,
            factor,
            notes={"information_gain": gains},
            stats=GainStats([gain for gain in gains if gain is not None], answers.costs),
        )

    def chain(self, outcome: Number, mean: Number, zero: Number, first: Number) -> Number:
        """Return 0, because plain chains have no gains."""
        return 0.0 * outcome

    def scale(self, advantage: Number, outcome: Number, factor: Number) -> Number:
        """Add the outcome's advantage; gains are scaled already."""
        return outcome + advantage

    def questions(self, client: Any, tokenizer: Any, prompt: Mapping[str, Any], longest: float) -> Questions:
        """Make the questions for the gold answer's log-prob in each context."""
        from verl_atpo.schemes.a2tgpo.questions import GoldAnswers, PromptedAnswer
        from verl_atpo.schemes.a2tgpo.rules import gold_answer

        text = gold_answer(prompt, self.settings.answer)
        answer = PromptedAnswer.of(tokenizer, self.settings.prompt, text)
        return GoldAnswers(client, prompt["uid"], answer, self.atpo.growth, longest)

    def check_prompts(self, prompts: Any) -> None:
        """Refuse rows without a gold answer."""
        from verl_atpo.schemes.a2tgpo.rules import check_gold_answers

        check_gold_answers(prompts, self.settings.answer)

    def metrics(self, stats: Sequence[GainStats | None]) -> dict[str, float]:
        """Make metrics of information gains and of their cost; none where no tree asked."""
        known = [each for each in stats if each is not None]
        if not known:
            return {}
        costs, gains = [each.costs for each in known], [gain for each in known for gain in each.gains]
        tokens = sum(cost.tokens for cost in costs)
        metrics = {
            "answer_requests": float(sum(cost.requests for cost in costs)),
            "answer_tokens": float(tokens),
            "answer_cache_hit_share": sum(cost.cached for cost in costs) / max(1, tokens),
            "answers_unknown": float(sum(cost.unknown for cost in costs)),
        }
        if gains:
            mean = math.fsum(gains) / len(gains)
            metrics["information_gain/mean"] = mean
            metrics["information_gain/std"] = math.sqrt(math.fsum((gain - mean) ** 2 for gain in gains) / len(gains))
        return metrics

    def describe(self) -> dict[str, str]:
        """Describe alpha, gamma, beta, and the question."""
        own = self.settings
        text = f"alpha={own.weight}, gamma={own.discount}, beta={own.clip}, of {own.answer} in {own.prompt!r}"
        return {"information gain": text}

    @classmethod
    def rules(cls) -> Sequence[Any]:
        """Return the rules of :mod:`verl_atpo.schemes.a2tgpo.rules`."""
        from verl_atpo.schemes.a2tgpo.rules import RULES

        return RULES

    @classmethod
    def seams(cls) -> Sequence[Any]:
        """Return the places of :mod:`verl_atpo.schemes.a2tgpo.places`."""
        from verl_atpo.schemes.a2tgpo.places import SEAMS

        return SEAMS

    @classmethod
    def presets(cls) -> Mapping[str, tuple[AtpoConfig, Mapping[str, Any]]]:
        """Return the preset: A²TGPO on the trees of ``tree``."""
        atpo = AtpoConfig(credit=CreditConfig(backup=Backup.LEAF_MEAN))
        return {"a2tgpo": (atpo, {"policy_loss": {"loss_mode": cls.loss}})}

    @classmethod
    def policy_loss(cls) -> Callable[..., Any]:
        """Return the loss with a clip range per turn."""
        from verl_atpo.schemes.a2tgpo.loss import compute_policy_loss_a2tgpo

        return compute_policy_loss_a2tgpo
