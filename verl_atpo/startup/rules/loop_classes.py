"""Rules about the user's agent loops: they derive from verl's class, and `run` is a coroutine function."""

from __future__ import annotations

import inspect

from verl_atpo.settings import refuse
from verl_atpo.startup.rules.loops import own_loops
from verl_atpo.startup.rules.rule import Rule, Run, Stage
from verl_atpo.startup.rules.tool_files import import_class
from verl_atpo.startup.verl_config import LOOPS


def _classes(run: Run) -> None:
    from verl.experimental.agent_loop.agent_loop import AgentLoopBase

    path = run.get(LOOPS)
    for name, target in own_loops(run).items():
        found = import_class(f"{LOOPS}={path}", target)
        problem = None
        if not issubclass(found, AgentLoopBase):
            problem = f"{target} of the loop {name} is no agent loop. Derive it from verl's AgentLoopBase"
        elif not inspect.iscoroutinefunction(inspect.unwrap(found.run)):
            problem = f"{target}.run of the loop {name} is no coroutine function. Write `async def run`"
        if problem:
            raise refuse(LOOPS, path, problem)


RULES = (Rule(LOOPS, _classes, lambda run: bool(run.get(LOOPS)), stage=Stage.REHEARSAL),)
