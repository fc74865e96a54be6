"""``python -m verl_atpo.search_qa.retriever --corpus corpus.jsonl``: builds the index if need be, then serves it."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from types import FrameType

import uvicorn

from verl_atpo.search_qa.retriever.answering import THREAD_NAME
from verl_atpo.search_qa.retriever.artifacts import DamagedError
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import PassageIndex
from verl_atpo.search_qa.retriever.restarting import restarted
from verl_atpo.search_qa.retriever.server import create_app
from verl_atpo.search_qa.retriever.settings import Options, options_of
from verl_atpo.search_qa.retriever.slow_clients import timed_protocol

logger = logging.getLogger("verl_atpo.search_qa.retriever")

_GRACE_S = 3
"""Seconds for running requests after a stop signal; with everything else the process ends within five seconds."""
_LAST_SEARCH_S = 0.5
_KEEP_ALIVE_S = 120  # longer than clients keep idle connections, or requests meet a connection that is being closed


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; running requests are answered first.

    Returns:
        0 after a stop by a signal, 2 for a corpus, index or setting that cannot work.

    Raises:
        SystemExit: with code 1 if the address cannot be served on.
    """
    options = options_of(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("bm25s").setLevel(logging.INFO)  # it sets itself to DEBUG
    try:
        address = _bound(options.host, options.port)  # a port in use shows now, not after hours; no one is let in yet
    except OSError as error:
        logger.error(
            "%s:%d cannot be served on: %s. Choose another --port or --host", options.host, options.port, error
        )
        raise SystemExit(1) from error
    try:
        config = uvicorn.Config(
            "",
            http=timed_protocol(options.server.patience_s),
            ws="none",
            host=options.host,
            port=options.port,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        corpus = Corpus(options.corpus, options.index_folder)
        config.app = create_app(corpus, _index(corpus, options), options.server)
    except (ValueError, OSError, DamagedError) as error:
        logger.error("%s", error)
        return 2
    _serve(config, address)
    return 0


def _bound(host: str, port: int) -> socket.socket:
    """Open a socket at the address, without listening.

    Raises:
        OSError: the port is taken, or the host is not this machine.
    """
    address = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    address.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        address.bind((host, port))
    except OSError:
        address.close()
        raise
    address.set_inheritable(True)
    return address


class _Server(uvicorn.Server):
    """Server that logs its address once it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for each in sockets or [] if self.started else []:
            host, port = each.getsockname()[:2]
            logger.info("Uvicorn running on http://%s:%d", f"[{host}]" if ":" in host else host, port)


def _serve(config: uvicorn.Config, address: socket.socket) -> None:
    _raise_file_limit()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped)  # uvicorn raises the signal again when it has stopped
    _Server(config).run(sockets=[address])
    searches = [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]
    deadline = time.monotonic() + _LAST_SEARCH_S
    for thread in searches:
        thread.join(max(deadline - time.monotonic(), 0))
    if any(thread.is_alive() for thread in searches):  # nothing waits for its answer any more
        logging.shutdown()
        os._exit(0)


def _stopped(number: int, frame: FrameType | None) -> None:
    logger.info("Stopped by %s", signal.Signals(number).name)


def _raise_file_limit() -> None:
    """Raise the limit on open files to the system's maximum, since every client is an open file."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _index(corpus: Corpus, options: Options) -> PassageIndex:
    if options.method == "bm25":
        from verl_atpo.search_qa.retriever.bm25 import Bm25Index

        return Bm25Index(corpus, options.index_folder, options.bm25)
    from verl_atpo.search_qa.retriever.dense import DenseIndex  # torch: seconds to import

    return DenseIndex(corpus, options.index_folder, options.dense, options.index_file)


if __name__ == "__main__":
    sys.exit(restarted(main))
