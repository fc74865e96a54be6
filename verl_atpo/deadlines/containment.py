"""Conversion of foreign code's non-``Exception`` errors into errors that the event loop survives."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from verl_atpo.failure import ExitError, StrayCancellation


async def contained(work: Awaitable[Any]) -> Any:
    """Await foreign code.

    Raises:
        ExitError: it raised ``SystemExit``, ``KeyboardInterrupt``, ``GeneratorExit`` or its own ``BaseException``, or
            ``StopAsyncIteration``, which would end a loop of the caller.
        BaseException: its errors, and ``asyncio.CancelledError``.
    """
    try:
        return await work
    except StopAsyncIteration as error:
        raise ExitError.of(error) from error
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise ExitError.of(error) from error


def called(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Call a plain foreign function.

    Raises:
        ExitError: it raised an error listed under :func:`contained`, or ``StopIteration``, which futures reject.
        StrayCancellation: it raised ``CancelledError``, though nobody can cancel a plain function.
        Exception: its errors.
    """
    try:
        return function(*args, **kwargs)
    except asyncio.CancelledError as error:
        raise StrayCancellation(f"{_name(function)} let a CancelledError of a client escape") from error
    except (StopIteration, StopAsyncIteration) as error:
        raise ExitError.of(error) from error
    except Exception:
        raise
    except BaseException as error:
        raise ExitError.of(error) from error


def contain_tasks(loop: asyncio.AbstractEventLoop) -> None:
    """Contain every task that an event loop makes from now on, those of foreign code included.

    A task that ends with ``SystemExit`` or ``KeyboardInterrupt`` would end the loop, and all other runs would hang.
    """

    def make(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **kwargs: Any) -> asyncio.Task[Any]:
        task = asyncio.Task(contained(work), loop=loop, **kwargs)
        task.add_done_callback(lambda _: work.close())  # the task may be cancelled before it starts
        return task

    loop.set_task_factory(make)  # type: ignore[arg-type]  # of typeshed, with a generic parameter


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", function))
