"""Play one game with a tool in the terminal, without Ray or a model, and see whether trees can expand its turns.

python -m verl_atpo.try_tool guess.Guess --kwargs '{"secret": 9}'
python -m verl_atpo.try_tool guess.Guess --row train.parquet:0 --call number=4 --call '{"number": 9}'

Without --call the calls are read from the terminal, a line each: arguments as name=value, or as a JSON object, after
the name of the action if a tool has several; an empty line ends the game. It is then played again from every turn, as
expansions of a tree will. Exit code 1: an expansion got other observations.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import io
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from verl.tools.base_tool import BaseTool
from verl.tools.function_tool import FUNCTION_TOOL_REGISTRY

from verl_atpo.failure import brief
from verl_atpo.replay.rehearsal import Asked, Call, Rehearsal, each, first_difference
from verl_atpo.settings import did_you_mean
from verl_atpo.tools.contract import Branching, branching_of
from verl_atpo.tools.row import create_kwargs, without_nulls
from verl_atpo.tools.stateful import expanded, names_in_rows

VERLS_CUT = 256
"""Characters of an observation that verl's tool agent shows, unless ``multi_turn.max_tool_response_length`` is set."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        tool = make_tool(options.tool, options.config)
        offered = {each.name: each for each in expanded([tool])}
        given = None if options.call is None else [read_call(line, offered) for line in options.call]
        kwargs = options.kwargs if options.row is None else {**kwargs_of_row(options.row, tool), **options.kwargs}
    except ValueError as error:
        parser.error(str(error))
    try:
        return asyncio.run(_try(tool, kwargs, given))
    except Exception as error:
        _say(brief(error))
        return 1


def make_tool(name: str, config: dict[str, Any]) -> Any:
    """Load the tool with this dotted name: a class of verl's ``BaseTool``, or a function with ``@function_tool``.

    Args:
        name: ``module.Class`` or ``module.function``.
        config: settings of the class, as in verl's tool config file.

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


def read_call(line: str, tools: Mapping[str, Any]) -> Asked:
    """Parse a call from a line: the function's name if there are several, then its arguments.

    Arguments are a JSON object, or name=value name=value; a value reaches to the next name of an argument, so it may
    hold spaces.

    Args:
        line: typed line.
        tools: on offer, by name.

    Raises:
        ValueError: it is neither.
    """
    first, _, rest = line.strip().partition(" ")
    if first in tools:
        name, written = first, rest.strip()
    elif len(tools) == 1:
        name, written = next(iter(tools)), line.strip()
    else:
        raise ValueError(f"{line!r} cannot be read: expected one of {', '.join(tools)} first.")
    if written.startswith("{"):
        try:
            return name, dict(json.loads(written))
        except ValueError as error:
            raise ValueError(f"{line!r} cannot be read: {error}") from None
    known = tools[name].tool_schema.function.parameters.properties
    found = [each for each in _NAME.finditer(written) if each.start() == 0 or each[1] in known]
    if written and (not found or found[0].start() > 0):
        raise ValueError(f"{line!r} cannot be read: expected name=value, or a JSON object of arguments.")
    ends = [*(each.start() for each in found[1:]), len(written)]
    return name, {each[1]: _value(written[each.end() : end].strip()) for each, end in zip(found, ends, strict=False)}


_NAME = re.compile(r"(?<!\S)([A-Za-z_]\w*)=")


def kwargs_of_row(place: str, tool: Any) -> dict[str, Any]:
    """Return the arguments of ``open`` in a row of the data, as training reads them.

    Args:
        place: ``FILE:NUMBER``, a parquet file and a row counted from 0.
        tool: the tool whose arguments they are.

    Raises:
        ValueError: there is no such row, or it has none for this tool.
    """
    import pandas as pd

    file, _, number = place.rpartition(":")
    if not number.isdigit() or not Path(file).is_file():
        raise ValueError(f"--row {place} cannot work: expected a parquet file and a row, as in train.parquet:0.")
    data = pd.read_parquet(file)
    if int(number) >= len(data):
        raise ValueError(f"--row {place} cannot work: the file has the rows 0 to {len(data) - 1}.")
    row = data.iloc[int(number)].to_dict()
    found = without_nulls((row.get("extra_info") or {}).get("tools_kwargs") or row.get("tools_kwargs") or {})
    names = names_in_rows(expanded([tool])[0])[-1:]
    if not set(names) & set(found):
        raise ValueError(f"--row {place} has no tools_kwargs.{names[0]} in extra_info, only {sorted(found)}.")
    return create_kwargs(found, names)


async def _try(tool: Any, given_kwargs: dict[str, Any], given: list[Asked] | None) -> int:
    branching = branching_of(tool)
    offered = {each.name: each for each in expanded([tool])}
    schemas = "\n".join(json.dumps(_schema(each), indent=2, ensure_ascii=False) for each in offered.values())
    _say(f"What the model reads:\n{schemas}\n")
    if given is None:
        _say("Calls as name=value or JSON, an empty line ends the game.")
    rehearsal = Rehearsal(tool, given_kwargs)
    game = await rehearsal.play(_typed(offered) if given is None else each(given), _printer(len(offered) > 1))
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
            f"Note: verl's tool agent cuts answers to {VERLS_CUT} characters, the longest here has {longest}; set "
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


def _printer(several: bool) -> Callable[[Call], None]:
    """Make a function that prints a call, with the function's name if there are several."""

    def tell(call: Call) -> None:
        reward = f", reward {call.reward:g}" if call.reward else ""
        asked = f"{call.name} " * several + json.dumps(call.arguments, ensure_ascii=False)
        _say(f"> {asked}\n{call.text}   [{1000 * call.seconds:.1f} ms{reward}]")
        if call.last:
            _say("The tool ended the episode.")

    return tell


async def _typed(tools: Mapping[str, Any]) -> AsyncIterator[Asked]:
    while line := (await asyncio.to_thread(sys.stdin.readline)).strip():
        try:
            yield read_call(line, tools)
        except ValueError as error:
            _say(str(error))


def _value(text: str) -> Any:
    if len(text) > 1 and text[0] == text[-1] == "'":
        return text[1:-1]
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
    parser.add_argument("tool", help="module.Class or module.function; the current folder is searched first")
    parser.add_argument(
        "--kwargs", type=_object, default={}, metavar="JSON", help="arguments of `open`: the row's create_kwargs"
    )
    parser.add_argument("--row", metavar="FILE:NUMBER", help="take them from this row of a parquet file, from 0")
    parser.add_argument("--config", type=_object, default={}, metavar="JSON", help="the tool's `config` of the file")
    parser.add_argument("--call", action="append", metavar="ARGUMENTS", help="a call; may be given several times")
    return parser


if __name__ == "__main__":
    sys.exit(main())
