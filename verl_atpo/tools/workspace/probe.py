"""Choice of the isolation and the technique that work on this machine, each tried for real."""

from __future__ import annotations

import logging
import os
import socket

from verl_atpo.failure import ToolOutage
from verl_atpo.settings import ConfigError
from verl_atpo.tools.sandbox.isolation import REMEDIES, Isolation
from verl_atpo.tools.workspace.config import Technique, WorkspaceConfig
from verl_atpo.tools.workspace.copies import Copy
from verl_atpo.tools.workspace.files import PARTS, Frozen
from verl_atpo.tools.workspace.jail import Jail
from verl_atpo.tools.workspace.overlay import Layer
from verl_atpo.tools.workspace.runner import run
from verl_atpo.tools.workspace.store import Store
from verl_atpo.tools.workspace.trees import Usage

logger = logging.getLogger(__name__)

ATTEMPTS = """
cat /etc/shadow >/dev/null 2>&1 && echo could read /etc/shadow
(echo x > /usr/atpo_was_here) 2>/dev/null && echo could write to /usr
(echo x > /atpo_was_here) 2>/dev/null && echo could write to the root
unshare --user true 2>/dev/null && echo could make a namespace
(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo could open a connection
{kill}
exit 0
"""
"""Actions that the isolation has to refuse."""
KILL = "kill -0 {pid} 2>/dev/null && echo could send a signal to the trainer"
CHANGES = "echo new > made; echo more >> old; rm -f gone; mv folder moved; exit 0"
SEEN = "cat made old moved/inner; ls -d gone folder 2>/dev/null; exit 0"


def find(config: WorkspaceConfig, store: Store) -> tuple[Jail, Technique]:
    """Return what the settings ask for, tried by a command, a snapshot and a fork.

    Raises:
        ConfigError: it does not work on this machine; with ``auto``, nothing does.
    """
    failures: dict[str, str] = {}
    strong = (Isolation.BUBBLEWRAP, Isolation.LANDLOCK)
    for isolation in strong if config.isolation is Isolation.AUTO else (config.isolation,):
        for jail in _jails(isolation, config):
            store.owner = jail.owner
            for technique in _techniques(config, jail):
                failed = tried(jail, technique, store)
                if failed is None:
                    _log(jail, technique, failures)
                    return jail, technique
                failures[f"{jail.name} with {technique.value}"] = failed
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failures.items()) or "layers need bubblewrap"
    raise ConfigError(
        f"workspace.isolation={config.isolation.value!r} with workspace.technique={config.technique.value!r} does not "
        f"work on this machine ({reasons}). Remedies: {REMEDIES}; for layers a folder that is no overlay "
        "itself (workspace.folder=/dev/shm, or a volume of ext4, xfs or btrfs). See docs/workspace.md."
    )


def _jails(isolation: Isolation, config: WorkspaceConfig) -> list[Jail]:
    """List an isolation's forms, the best first.

    The files of the kernel under ``/proc`` belong to the administrator, so commands that run as he see none of them.
    """
    if isolation is not Isolation.BUBBLEWRAP:
        return [Jail(isolation, config)]
    if os.geteuid() != 0:
        return [Jail(isolation, config, proc) for proc in (True, False)]
    return [Jail(isolation, config, proc, drops) for proc, drops in ((True, True), (False, True), (False, False))]


def _techniques(config: WorkspaceConfig, jail: Jail) -> list[Technique]:
    wanted = [Technique.OVERLAY, Technique.COPY] if config.technique is Technique.AUTO else [config.technique]
    return [each for each in wanted if jail.mounts or each is not Technique.OVERLAY]


def tried(jail: Jail, technique: Technique, store: Store) -> str | None:
    """Return why an isolation and a technique do not work here, if so."""
    try:
        start = empty(technique, store)
        files = start.thaw({"old": b"old\n", "gone": b"", "folder/inner": b"inner\n"})
        with socket.create_server(("127.0.0.1", 0)) as server:
            kill = KILL.format(pid=os.getpid()) if not jail.mounts else ""  # with bubblewrap numbers are others
            attempts = ATTEMPTS.format(port=server.getsockname()[1], kill=kill)
            for command in (CHANGES,) if jail.isolation is Isolation.LIMITS_ONLY else (attempts, CHANGES):
                done = run(jail, files, command, output=2000)
                if done.output or done.exit_code != 0:
                    return f"a command {done.text.strip() or f'ended with {done.exit_code}'}"
        fork = files.freeze().thaw()
        run(jail, files, "echo later > made; echo later > old")
        seen = run(jail, fork, SEEN).text
        for each in (files, fork):
            each.close()
    except (OSError, ImportError, ToolOutage) as error:
        return f"{type(error).__name__}: {error}"
    expected = "new\nold\nmore\ninner\n"
    return None if seen == expected else f"a fork has {seen!r}, expected {expected!r}"


def empty(technique: Technique, store: Store) -> Frozen:
    """Make files without contents."""
    folder = store.new(*PARTS)
    return Layer(store, folder, None, Usage()) if technique is Technique.OVERLAY else Copy(store, folder, Usage())


def _log(jail: Jail, technique: Technique, failures: dict[str, str]) -> None:
    if jail.isolation is Isolation.LIMITS_ONLY:
        logger.warning("Workspaces run commands WITHOUT a sandbox (workspace.isolation=limits_only).")
    level = logging.WARNING if failures else logging.INFO
    tail = f"; others do not work here: {failures}" if failures else ""
    logger.log(level, "Workspaces: %s, files by %s%s.", jail.name, technique.value, tail)
