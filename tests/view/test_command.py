"""The command: what it says where it cannot serve, and where there is nothing to see yet."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from tests.assets.browser import answers, wait_until

COMMAND = [sys.executable, "-m", "verl_atpo.view"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}


def test_a_taken_port_is_said_and_no_address_is_printed(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [*COMMAND, str(tmp_path), "--port", str(port), "--cache", str(tmp_path / "cache")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=ENVIRONMENT)
    assert done.returncode == 1 and f"port {port} of 127.0.0.1 is taken" in done.stderr and "--port 0" in done.stderr
    assert "http://" not in done.stdout and "Traceback" not in done.stderr


def test_an_empty_folder_is_said_to_be_empty_and_is_served(tmp_path: Path) -> None:
    command = [*COMMAND, str(tmp_path), "--port", "0", "--no-browser", "--cache", str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT) as viewer:
        try:
            assert viewer.stdout is not None
            address = viewer.stdout.readline().split(": ", 1)[1].split()[0]
            said = viewer.stdout.readline()
            assert f"no trees in {tmp_path} yet" in said and f"algorithm.atpo.dump_dir={tmp_path}" in said
            wait_until(lambda: answers(address), 60)
            giant = urllib.request.Request(address, headers={"Cookie": "a=" * 30_000})
            try:
                status = urllib.request.urlopen(giant, timeout=5).status
            except urllib.error.HTTPError as error:
                status = error.code
            assert status in (400, 431)  # 400: the HTTP server's own limit
        finally:
            viewer.terminate()
