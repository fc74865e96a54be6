"""Failures of an agent loop: after an outage it is run again, a bug fails the tree and may end the run.

Outages are named here and, for errors of any client, in :mod:`verl_atpo.transient`. Any other error that a user's
loop, a tool's contract or a reward raises is a bug, which a retry would only repeat. Pure Python.
"""

from __future__ import annotations

import re
from itertools import pairwise

from verl_atpo.error_codes import STATUSES, status_in
from verl_atpo.error_names import dotted, named_outage
from verl_atpo.transient import group_members, passes, verdict_of

LONGEST_REASON = 400
"""Characters of an error that a message repeats: one from a remote process carries that process's traceback."""


class TransientToolError(RuntimeError):
    """The call was not carried out, for a transient reason: it is made again."""


class ToolOutage(RuntimeError):
    """The tool's infrastructure still failed after all retries: neither the model's fault nor an answer."""


class EngineOutage(RuntimeError):
    """The engine did not answer a generation: it died, restarts, or dropped the request."""


class EmptyTurnError(RuntimeError):
    """A generation came back empty."""


class ReplayEndedError(RuntimeError):
    """The agent loop ended before its new turn, because the environment answered differently than before."""


class TrajectoryBug(RuntimeError):
    """A bug of a trajectory's loop, tool or reward; the message names the remedy."""


class ExitError(RuntimeError):
    """User code raised an exception that would have ended the process or its event loop, such as ``sys.exit()``."""

    @classmethod
    def of(cls, error: BaseException) -> ExitError:
        """Make the error from the type and message of what was raised."""
        return cls(_named(error))


class StrayCancellation(ConnectionError):
    """A ``CancelledError`` that nobody requested: a client's connection was closed. It is transient."""


class NothingSampledError(RuntimeError):
    """The agent loop ended without calling the model: most likely its environment did not start."""


class ContextRewrittenError(TrajectoryBug):
    """The agent loop's context is not append-only, so its turns cannot be located in the response."""


class RowMismatchError(TrajectoryBug):
    """The row that the agent loop returned differs from what was sampled."""


OUTAGES = (ToolOutage, EngineOutage, EmptyTurnError, ReplayEndedError, NothingSampledError)
RAY_ERROR, RAY_TASK_ERROR = "ray.exceptions.RayError", "ray.exceptions.RayTaskError"
_UNREADABLE = ("ray.exceptions.UnserializableException", "ray.exceptions.RayError")
"""Errors that Ray sends in place of one that it cannot pickle: the traceback as text."""


def is_transient(error: BaseException) -> bool:
    """Return whether a call that failed with ``error`` may succeed on a retry (:mod:`verl_atpo.transient`)."""
    return passes(error, _passes)


def is_outage(error: BaseException) -> bool:
    """Return whether ``error`` is an error of the infrastructure, so that the trajectory is sampled again.

    Such are outages of tools and engine, transient errors (:func:`is_transient`) and Ray's own errors, anywhere in
    the chain of causes. An error of a remote function is judged by the original error.
    """
    return passes(error, _outage_verdict)


def _passes(error: BaseException) -> bool | None:
    """Judge one error: transient or not, ``None`` where its causes decide."""
    if isinstance(error, TransientToolError):
        return True
    if isinstance(error, TrajectoryBug):
        return False
    names = _names(error)
    if RAY_TASK_ERROR in names:
        cause = getattr(error, "cause", None)
        return isinstance(cause, BaseException) and passes(cause, _passes)
    if dotted(type(error)) in _UNREADABLE:
        return _printed_passes(str(error))
    return verdict_of(error)


def _outage_verdict(error: BaseException) -> bool | None:
    if isinstance(error, OUTAGES):
        return True
    names = _names(error)
    if RAY_TASK_ERROR in names:
        cause = getattr(error, "cause", None)
        return isinstance(cause, BaseException) and is_outage(cause)
    found = _passes(error)
    if found is None and RAY_ERROR in names:
        return True
    return found


def _printed_passes(text: str) -> bool | None:
    """Judge the errors of a printed traceback by their names and the HTTP status in their messages.

    ``None`` if it shows only Ray's own errors. The line of an error is the first one after its frames, which are
    indented.
    """
    lines = text.splitlines()
    ends = [line for before, line in pairwise(lines) if before[:1].isspace() and not line[:1].isspace()]
    found = [match for line in ends if (match := _ERROR_LINE.match(line)) and not match["name"].startswith("ray.")]
    return any(_named_passes(match["name"], match["words"] or "") for match in found) if found else None


def _named_passes(name: str, words: str) -> bool:
    own = {dotted(kind) for kind in (*OUTAGES, TransientToolError)}
    return name in own or named_outage(name) or status_in(name, words) in STATUSES


_ERROR_LINE = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(?:: (?P<words>.*))?$")


def died_while_made(error: BaseException) -> bool:
    """Return whether a Ray actor died in its constructor: a retry would die as well, so it is no outage."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        if getattr(cause, "actor_init_failed", False):
            return True
        seen.add(id(cause))
        cause = cause.__cause__
    return False


def last_words(error: BaseException) -> str:
    """Return the last line of an error's message: the original error where Ray repeats a traceback."""
    lines = [line.strip() for line in message(error).splitlines() if line.strip()]
    return lines[-1][:LONGEST_REASON].rstrip(".") if lines else type(error).__name__


def brief(error: BaseException) -> str:
    """Return an error's type and message in one short line; of the wrapped error if Ray wrapped one."""
    raised = getattr(error, "cause", None) if RAY_TASK_ERROR in _names(error) else error
    return _named(raised or error)[:LONGEST_REASON]


def message(error: BaseException) -> str:
    """Return ``str(error)``; empty if that fails, as foreign classes may make it."""
    try:
        return str(error)
    except (Exception, SystemExit):
        return ""


def _named(error: BaseException) -> str:
    members = group_members(error)
    words = f"{message(error)}: {_named(members[0])}" if members else message(error)
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def _names(error: BaseException) -> set[str]:
    return {dotted(each) for each in type(error).__mro__}
