"""Ray clusters of several nodes on this machine: addresses of the loopback, ports, folders and a token of their own."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.assets.main_ppo import free_port
from tests.assets.python_path import QUICK_VARIABLES

START_S = 120.0
CPUS = 16
"""Ray's bookkeeping only."""
WORKER_PORTS = 1000
"""Ports of a node below those that the system gives out: Ray's workers take none that verl has found free."""
WAIT_UNTIL_DEAD = """
import sys, time, ray
ray.init(logging_level="ERROR", log_to_driver=False)
while any(node["Alive"] and node["NodeManagerAddress"] == sys.argv[1] for node in ray.nodes()):
    time.sleep(0.5)
"""


class Node:
    """A node with one logical device: ``ray start --block`` and all that it starts.

    Args:
        host: its address, any of 127.0.0.0/8.
        cluster: its cluster.
        head: address of the head, none for the head itself.
    """

    def __init__(self, host: str, cluster: Cluster, head: str | None = None) -> None:
        port = free_port()
        first = 10_000 + WORKER_PORTS * int(host.rpartition(".")[2])
        self.host = host
        self.address = f"{host}:{port}"
        place = [f"--address={head}"] if head else ["--head", f"--port={port}", "--include-dashboard=false"]
        if not head:
            place += [f"--ray-client-server-port={free_port()}", f"--temp-dir={cluster.temporary}"]
        ports = ["dashboard-agent-listen-port", "dashboard-agent-grpc-port", "metrics-export-port"]
        self.process = subprocess.Popen(
            [
                *(str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={host}", *place),
                *(f"--num-cpus={CPUS}", "--num-gpus=1", "--object-store-memory=200000000", "--disable-usage-stats"),
                *(f"--min-worker-port={first}", f"--max-worker-port={first + WORKER_PORTS - 1}"),
                *(f"--{name}={free_port()}" for name in ports),
            ],
            cwd=cluster.folder,
            env={**os.environ, **cluster.variables, "OMP_NUM_THREADS": "1", **QUICK_VARIABLES},
            stdin=subprocess.DEVNULL,
            stdout=(cluster.folder / f"ray-{host}.log").open("w"),
            stderr=subprocess.STDOUT,
        )

    def workers(self, name: str) -> list[psutil.Process]:
        """Ray's processes on this node whose title begins with ``ray::<name>``."""
        return [each for each in self._all() if " ".join(each.cmdline()).startswith(f"ray::{name}")]

    def kill(self) -> None:
        """As if its machine had gone: everything at once."""
        processes = self._all()
        for each in processes:
            try:
                each.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, 30)
        self.process.wait(30)

    def _all(self) -> list[psutil.Process]:
        try:
            own = psutil.Process(self.process.pid)
            return [*own.children(recursive=True), own]
        except psutil.NoSuchProcess:
            return []


class Cluster:
    """Nodes at 127.0.0.2, 127.0.0.3 and so on, ended with the ``with`` block.

    Args:
        folder: for logs.
        nodes: how many to begin with.

    Attributes:
        variables: the environment of a driver that may join.
        token: what it needs for that; it is in a file, and in no log.
    """

    def __init__(self, folder: Path, nodes: int) -> None:
        self.folder = folder
        self.temporary = Path(tempfile.mkdtemp(prefix="nodes"))  # short: Unix sockets have short names
        token = self.temporary / "token"
        token.touch(mode=0o600)
        self.token = secrets.token_hex(32)
        token.write_text(self.token)
        self.variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
        self.nodes: list[Node] = []
        self._number = nodes

    def __enter__(self) -> Cluster:
        for _ in range(self._number):
            self.add()
        return self

    def wait_until_dead(self, node: Node) -> None:
        """Until the head knows that a killed node is gone.

        Its health checks take a quarter of a minute; as long, Ray gives actors to the dead node, which die of it.
        """
        subprocess.run(
            [sys.executable, "-c", WAIT_UNTIL_DEAD, node.host],
            env={**os.environ, **self.variables},
            check=True,
            stdin=subprocess.DEVNULL,
            timeout=START_S,
        )

    def __exit__(self, *error: object) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self.temporary, ignore_errors=True)

    def add(self) -> Node:
        """A further node, once it has joined."""
        head = self.nodes[0].address if self.nodes else None
        if head:
            self.variables["RAY_ADDRESS"] = head
        node = Node(f"127.0.0.{2 + len(self.nodes)}", self, head)
        self.nodes.append(node)
        self.variables["RAY_ADDRESS"] = self.nodes[0].address
        log = self.folder / f"ray-{node.address.partition(':')[0]}.log"
        deadline = time.monotonic() + START_S
        while "Ray runtime started" not in log.read_text():
            assert node.process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
        return node
