"""Try an agent before training: ``python -m verl_atpo.try_agent --agent my_agent:solve --model PATH --answer TEXT``.

The agent is run once against the endpoint, with the given answers instead of the policy's, and then again once for each
of its calls, as an expansion of a tree runs it. Exit code 1: a run made other requests than the first.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from typing import Any

from tabulate import tabulate

LONGEST_TEXT = 60


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rehearsal and print what it found; returns the exit code."""
    options = _parser().parse_args(arguments)
    from transformers import AutoConfig, AutoTokenizer

    from verl_atpo.gateway.rehearsal import AgentRehearsal

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model_type = str(getattr(AutoConfig.from_pretrained(options.model), "model_type", ""))
    settings = {"agent": options.agent, "command": options.command, "ignore": options.ignore}
    row: dict[str, Any] = json.loads(options.row)
    row.setdefault("raw_prompt", [{"role": "user", "content": options.text}])
    rehearsal = AgentRehearsal(tokenizer, settings, options.format, model_type)
    found = asyncio.run(rehearsal.rehearse(row, options.answer))
    fields = found.rows[-1].extra_fields
    shown = [[number, tokens, text[:LONGEST_TEXT]] for number, (tokens, text) in enumerate(found.calls, start=1)]
    print(tabulate(shown, headers=["call", "context, tokens", "answer"], tablefmt="github"))
    print(f"\n{len(found.rows)} rows; result {fields['agent_result']!r}; reward {found.rows[-1].reward_score}")
    if fields["agent_edits"]:
        print(f"Answers that came back changed, each of which starts a row: {fields['agent_edits']}")
    if fields["agent_crash"]:
        print(f"The agent crashed: {fields['agent_crash']}")
    for length, words in found.divergences.items():
        print(f"\nReplayed up to call {length}: {words}")
    if not found.divergences:
        print(f"Replayed at each of its {len(found.calls)} calls: it asked for the same every time.")
    return 1 if found.divergences else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m verl_atpo.try_agent", description=__doc__)
    named = parser.add_mutually_exclusive_group(required=True)
    named.add_argument("--agent", help="package.module:function or path/to/file.py:function")
    named.add_argument("--command", help="command line to run instead")
    parser.add_argument(
        "--model", required=True, help="folder or name of the model, for its tokenizer and chat template"
    )
    parser.add_argument(
        "--answer", action="append", required=True, help="what the model says, call by call; the last again"
    )
    parser.add_argument("--text", default="Hello.", help="the task's user message")
    parser.add_argument("--row", default="{}", help="further fields of the data row, as JSON")
    parser.add_argument("--format", default="hermes", help="verl's name of the model's tool calls (multi_turn.format)")
    parser.add_argument("--ignore", action="append", default=[], help="pattern of what may differ, as gateway.ignore")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
