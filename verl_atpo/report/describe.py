"""Conversion of a grown tree to a record of a dump (``report/record.py``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from transformers import PreTrainedTokenizerBase

from verl_atpo.config import AtpoConfig, SharedTurns
from verl_atpo.failure import brief, is_outage
from verl_atpo.method.scheme import Credit
from verl_atpo.report.differences import context_numbers, differences_of
from verl_atpo.report.record import FORMAT, Node, Record, SelectionRecord, ToolUse, TrajectoryRecord, summarize
from verl_atpo.tree.growth import GrownTree, Rollout
from verl_atpo.tree.recording import Turn
from verl_atpo.tree.trajectory import Trajectory
from verl_atpo.tree.tree import ROOT, TurnNode


class TreeDescriber:
    """Makes records of one run.

    Args:
        tokenizer: the model's tokenizer.
        config: settings of the run.
        credit: description of the credit in records; ``None`` for its settings.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, config: AtpoConfig, credit: Mapping[str, str] | None = None
    ) -> None:
        self._tokenizer, self._config = tokenizer, config
        own = config.credit
        settings = {name: getattr(own, name).value for name in ("backup", "advantage", "contexts", "normalize")}
        self._credit = dict(credit or settings | {"scheme": own.scheme_name})

    def record(
        self,
        grown: GrownTree,
        credit: Credit,
        prompt: Mapping[str, Any],
        *,
        seconds: float,
        failed: str | None = None,
    ) -> Record:
        """Make the record of a tree.

        Args:
            grown: the tree, which may have failed.
            credit: credit of its turns.
            prompt: verl's fields of the prompt it grew from.
            seconds: duration of its growth.
            failed: error by which it failed as a group; None if it is finished.
        """
        tree = grown.tree
        nodes = self._nodes(grown, credit)
        first = tree.turn(tree.nodes[ROOT].children[0]) if tree.nodes[ROOT].children else None
        text = _messages(prompt.get("raw_prompt")) if first is None else self._text(first.observed_ids)
        body = Record(
            format=FORMAT,
            uid=str(prompt["uid"]),
            global_step=int(prompt["global_steps"]),
            data_source=prompt.get("data_source"),
            ground_truth=(prompt.get("reward_model") or {}).get("ground_truth"),
            extra_info=dict(prompt.get("extra_info") or {}),
            prompt=text,
            template=self._template(nodes, text),
            failed=failed,
            root_value=credit.values[ROOT],
            credit=dict(self._credit),
            selected=list(grown.selected),
            regrown=grown.regrown,
            outages=sum(is_outage(error) for rollout in grown.rollouts for error in rollout.failures),
            seconds=round(seconds, 3),
            sampled_tokens=grown.sampled_tokens,
            nodes=nodes,
            trajectories=self._trajectories(grown),
        )
        if first is not None:
            body["prompt_tokens"] = len(first.observed_ids)
        if (chain_tokens := grown.chain_tokens) is not None:
            body["chain_tokens"] = chain_tokens
        return Record(summary=summarize(body), **body)

    def _nodes(self, grown: GrownTree, credit: Credit) -> list[Node]:
        tree = grown.tree
        last = {leaf: number for number, leaf in enumerate(grown.leaves)}
        contexts = context_numbers(tree, self._config.credit)
        differences = differences_of(tree, credit, self._config.credit)
        described = []
        for node in tree.nodes[1:]:
            entry = self._node(node, tree.turn(node.index))
            entry["turn"] = tree.depth(node.index)
            entry["value"], entry["advantage"] = credit.values[node.index], credit.advantages[node.index]
            entry["context"] = contexts[node.index]
            if (terms := differences[node.index]) is not None:
                entry["differences"] = terms
            for name, numbers in credit.notes.items():
                entry[name] = numbers[node.index]  # type: ignore[literal-required]
            if self._config.credit.tool_rewards:
                entry["tool_reward"] = node.tool_reward
            entry.update(_times(tree.turn(node.index), after=None if node.index in last else _next(grown, node)))
            described.append(entry)
        return described

    def _node(self, node: TurnNode, turn: Turn) -> Node:
        token_ids = turn.token_ids
        text = self._text(token_ids)
        entry = Node(
            index=node.index,
            parent=node.parent,
            round=node.round,
            trajectory=node.sampled_by,
            observation="" if node.parent == ROOT else self._text(turn.observed_ids),
            observation_tokens=0 if node.parent == ROOT else len(turn.observed_ids),
            text=text,
            tokens=len(token_ids),
            token_ids=token_ids,
            token_nll_centinats=_centinats(turn),
            mean_nll=node.mean_nll,
            versions=turn.versions,
            is_leaf=node.is_leaf,
            reward=node.reward,
        )
        chars = self._chars(token_ids, text)
        if chars is not None:
            entry["token_chars"] = chars
        if calls := _tool_calls(turn):
            entry["tool_calls"] = calls
        return entry

    def _trajectories(self, grown: GrownTree) -> list[TrajectoryRecord]:
        described = []
        for rollout in grown.rollouts:
            ended = rollout.trajectory if rollout.tip != ROOT else None
            entry = TrajectoryRecord(
                number=rollout.number,
                leaf=None if ended is None else rollout.tip,
                round=rollout.round,
                diverged=ended is not None and ended.diverged,
                selection=None if rollout.selection is None else cast(SelectionRecord, asdict(rollout.selection)),
                started_s=round(rollout.started_s, 3),
                ended_s=None if rollout.ended_s is None else round(rollout.ended_s, 3),
                failures=[brief(error) for error in rollout.failures],
            )
            if ended is not None:
                entry.update(self._row(grown, rollout, ended))
            described.append(entry)
        return described

    def _row(self, grown: GrownTree, rollout: Rollout, trajectory: Trajectory) -> TrajectoryRecord:
        """Describe the rows that the trainer got of a finished trajectory."""
        output = trajectory.output
        last = len(trajectory.outputs) - 1
        ends = [
            place.start + len(turn.token_ids)
            for place, turn in zip(trajectory.places, trajectory.turns, strict=True)
            if place.row == last
        ]
        tail = output.response_ids[max(ends) :]
        shared = grown.shared_turns(rollout)
        return TrajectoryRecord(
            own_turns=len(trajectory.turns) - shared,
            reward=trajectory.reward,
            reward_extra=dict(output.extra_fields.get("reward_extra_info") or {}),
            prompt_tokens=len(output.prompt_ids),
            response_tokens=len(output.response_ids),
            starts=list(trajectory.starts),
            rows=[place.row for place in trajectory.places] if last else [],
            tail=self._text(tail),
            tail_tokens=len(tail),
            trained_from=trajectory.starts[shared] if self._config.credit.shared_turns is SharedTurns.ONCE else 0,
        )

    def _text(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _template(self, nodes: Sequence[Node], prompt: str) -> list[str]:
        """List the tokenizer's special tokens that the tree's texts hold."""
        texts = prompt + "".join(node["observation"] + node["text"] for node in nodes)
        return [token for token in self._tokenizer.all_special_tokens if token and token in texts]

    def _chars(self, ids: Sequence[int], text: str) -> list[int] | None:
        """Count the characters of ``text`` per token, 0 for the first parts of one; None where that is unknown."""
        pieces = self._tokenizer.batch_decode([[token] for token in ids], skip_special_tokens=False)
        if "".join(pieces) == text:
            return [len(piece) for piece in pieces]
        chars, group, at = list[int](), list[int](), 0
        for token in ids:
            group.append(token)
            piece = self._text(group)
            found = -1 if piece.endswith("\ufffd") else text.find(piece, at)
            whole = found == at or (found > at and text[at:found].isspace())  # some tokenizers put spaces between
            chars.append(found + len(piece) - at if whole else 0)
            if whole:
                at, group = found + len(piece), []
        return chars if at == len(text) else None


def _centinats(turn: Turn) -> list[int]:
    log_probs = [each for generation in turn.generations for each in generation.output.log_probs or []]
    return [max(0, round(-100 * log_prob)) for log_prob in log_probs]


def _tool_calls(turn: Turn) -> list[ToolUse]:
    return [
        ToolUse(name=call.name, made=call.made, error=None if call.error is None else repr(call.error))
        for generation in turn.generations
        for call in generation.tool_calls
    ]


def _next(grown: GrownTree, node: TurnNode) -> Turn | None:
    """Find the turn that the same run sampled after a node's."""
    own = (child for child in node.children if grown.tree.nodes[child].sampled_by == node.sampled_by)
    return next((grown.tree.turn(child) for child in own), None)


def _times(turn: Turn, after: Turn | None) -> Node:
    """Return the seconds of generation, and those from its end to the next request: tools, and the loop itself."""
    times = Node(generation_s=round(turn.ended_s - turn.started_s, 3))
    if after is not None:
        times["tool_s"] = round(max(0.0, after.started_s - turn.ended_s), 3)
    return times


def _messages(raw_prompt: Any) -> str:
    """Join the message contents of a prompt that no loop has rendered."""
    return "\n".join(str(message.get("content", "")) for message in raw_prompt or [])
