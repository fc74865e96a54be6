"""Play one game with a tool in the terminal, without Ray or a model, and see whether trees can branch around it.

python -m verl_atpo.try_tool guess.Guess --kwargs '{"secret": 9}'
python -m verl_atpo.try_tool guess.Guess --kwargs '{"secret": 9}' --call number=4 --call '{"number": 9}'

Without --call the calls are read from the terminal, a line each: arguments as name=value, or as a JSON object; an empty
line ends the game. It is then played again from every turn, as branches of a tree will. Exit code 1: one saw otherwise.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import io
import json
import shlex
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY

from verl_atpo.failure import brief
from verl_atpo.replay.rehearsal import Call, Rehearsal, each, first_difference
from verl_atpo.settings import did_you_mean
from verl_atpo.tools.contract import Branching, branching_of

VERLS_CUT = 256
"""Characters of an observation that verl's tool agent shows, unless ``multi_turn.max_tool_response_length`` is set."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        tool = make_tool(options.tool, options.config)
        given = None if options.call is None else [read_call(line) for line in options.call]
    except ValueError as error:
        parser.error(str(error))
    try:
        return asyncio.run(_try(tool, options.kwargs, given))
    except Exception as error:
        _say(brief(error))
        return 1


def make_tool(name: str, config: dict[str, Any]) -> Any:
    """The tool with this dotted name: a class of verl's ``BaseTool``, or a function with ``@function_tool``.

    Args:
        name: ``module.Class`` or ``module.function``.
        config: of the class, as in verl's tool config file.

    Raises:
        ValueError: there is no such tool, or it cannot be made.
    """
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(f"{name}: its module cannot be imported: {brief(error)}. Is PYTHONPATH right?") from error
    found = getattr(module, attribute, None)
    if isinstance(found, type) and issubclass(found, BaseTool):
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # verl prints the schema
                return found({"type": "native", **config}, None)  # type: ignore[arg-type]
        except Exception as error:
            raise ValueError(f"{name} cannot be made: {brief(error)}") from error
    for tool in FUNCTION_TOOL_REGISTRY.values():
        if found is not None and tool.fn is found:
            return tool
    hint = did_you_mean(attribute, [each for each, value in vars(module).items() if callable(value)])
    raise ValueError(
        f"{module_name} has no tool {attribute}: expected a subclass of verl_atpo.tools.StatefulTool or of verl's "
        f"BaseTool, or a function under verl's @function_tool.{hint}"
    )


def read_call(line: str) -> dict[str, Any]:
    """Arguments from ``name=value name=value`` or a JSON object.

    Raises:
        ValueError: it is neither.
    """
    try:
        if line.lstrip().startswith("{"):
            return dict(json.loads(line))
        pairs = [word.partition("=") for word in shlex.split(line)]
    except ValueError as error:
        raise ValueError(f"{line!r} cannot be read: {error}") from None
    if not all(equals and name for name, equals, _ in pairs):
        raise ValueError(f"{line!r} cannot be read: expected name=value, or a JSON object of arguments.")
    return {name: _value(text) for name, _, text in pairs}


async def _try(tool: Any, create_kwargs: dict[str, Any], given: list[dict[str, Any]] | None) -> int:
    branching = branching_of(tool)
    _say(f"What the model is told:\n{json.dumps(_schema(tool), indent=2, ensure_ascii=False)}\n")
    if given is None:
        _say("Calls as name=value or JSON, an empty line ends the game.")
    rehearsal = Rehearsal(tool, create_kwargs)
    game = await rehearsal.play(_typed() if given is None else each(given), _tell)
    wrong = await first_difference(rehearsal, branching, game)
    totals = rehearsal.guard.totals
    if totals.states_opened != totals.states_closed:
        wrong = (
            f"{totals.states_opened} states were opened and {totals.states_closed} closed: `close` failed, see above."
        )
    elif game and all(call.refused for call in game):
        wrong = "Every call raised."
    right = f"{tool.name} branches by {branching.value}: {len(game)} calls, {_HOW[branching]}."
    _say(f"\n{right if wrong is None else f'WRONG: {wrong}'}")
    if longest := max((len(call.text) for call in game if len(call.text) > VERLS_CUT), default=0):
        _say(
            f"Mind: verl's tool agent cuts answers to {VERLS_CUT} characters, the longest here has {longest}; set "
            "actor_rollout_ref.rollout.multi_turn.max_tool_response_length."
        )
    return int(wrong is not None)


_HOW = {
    Branching.STATELESS: "with the same answers in another order",
    Branching.REPLAY: "with the same answers when they are made again on a fresh state, from every turn",
    Branching.FORK: "with the same answers from every turn's snapshot, restored twice",
}


def _schema(tool: Any) -> dict[str, Any]:
    described: dict[str, Any] = tool.tool_schema.model_dump(exclude_unset=True, exclude_none=True)["function"]
    return described


def _tell(call: Call) -> None:
    reward = f", reward {call.reward:g}" if call.reward else ""
    _say(f"> {json.dumps(call.arguments, ensure_ascii=False)}\n{call.text}   [{1000 * call.seconds:.1f} ms{reward}]")


async def _typed() -> AsyncIterator[dict[str, Any]]:
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            yield read_call(line)
        except ValueError as error:
            _say(str(error))


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return value


def _say(text: str) -> None:
    print(text, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verl_atpo.try_tool", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tool", help="module.Class or module.function; the folder you stand in is searched first")
    parser.add_argument(
        "--kwargs", type=_object, default={}, metavar="JSON", help="arguments of `open`: the row's create_kwargs"
    )
    parser.add_argument("--config", type=_object, default={}, metavar="JSON", help="the tool's `config` of the file")
    parser.add_argument("--call", action="append", metavar="ARGUMENTS", help="a call; may be given several times")
    return parser


if __name__ == "__main__":
    sys.exit(main())
