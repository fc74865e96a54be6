"""``python -m verl_atpo.search_qa.retriever --corpus corpus.jsonl``: builds the index if need be, then serves it."""

from __future__ import annotations

import argparse
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType

import uvicorn

from verl_atpo.search_qa.retriever.answering import THREAD_NAME
from verl_atpo.search_qa.retriever.artifacts import DamagedError
from verl_atpo.search_qa.retriever.corpus import Corpus
from verl_atpo.search_qa.retriever.index import PassageIndex
from verl_atpo.search_qa.retriever.patience import patient_protocol
from verl_atpo.search_qa.retriever.server import ServerSettings, create_app

logger = logging.getLogger("verl_atpo.search_qa.retriever")

_GRACE_S = 3
"""For requests under way when it is asked to stop; with all else it ends within five seconds."""
_LAST_SEARCH_S = 0.5
_KEEP_ALIVE_S = 120  # longer than clients keep idle connections, or requests meet a connection that is being closed


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    Returns:
        0 after a stop by a signal, 2 for a corpus, index or setting that cannot work.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("bm25s").setLevel(logging.INFO)  # it sets itself to DEBUG
    try:
        limits = _limits(options)
        config = uvicorn.Config(
            "",
            http=patient_protocol(limits.patience_s),
            ws="none",
            host=options.host,
            port=options.port,
            access_log=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_GRACE_S,
        )
        address = config.bind_socket()  # a port in use shows now, not after hours of building; no one is let in yet
        corpus = Corpus(options.corpus, _index_dir(options))
        config.app = create_app(corpus, _index(corpus, options), limits)
    except (ValueError, OSError, DamagedError) as error:
        logger.error("%s", error)
        return 2
    _serve(config, address)
    return 0


def _serve(config: uvicorn.Config, address: socket.socket) -> None:
    _raise_file_limit()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stopped)  # uvicorn raises the signal again when it has stopped
    uvicorn.Server(config).run(sockets=[address])
    searches = [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]
    deadline = time.monotonic() + _LAST_SEARCH_S
    for thread in searches:
        thread.join(max(deadline - time.monotonic(), 0))
    if any(thread.is_alive() for thread in searches):  # nobody waits for its answer any more
        logging.shutdown()
        os._exit(0)


def _stopped(number: int, frame: FrameType | None) -> None:
    logger.info("Stopped by %s", signal.Signals(number).name)


def _raise_file_limit() -> None:
    """Every client is an open file: use what the system grants."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _index(corpus: Corpus, options: argparse.Namespace) -> PassageIndex:
    if options.method == "bm25":
        from verl_atpo.search_qa.retriever.bm25 import Bm25Index, Bm25Settings

        words = Bm25Settings(stemmer=_or_none(options.stemmer), stopwords=_or_none(options.stopwords))
        return Bm25Index(corpus, _index_dir(options), words)
    from verl_atpo.search_qa.retriever.dense import DenseIndex, DenseSettings  # torch: seconds to import

    vectors = DenseSettings(
        model=options.model,
        factory=options.faiss_factory,
        nprobe=options.nprobe,
        query_prefix=options.query_prefix,
        passage_prefix=options.passage_prefix,
        train_passages=options.train_passages,
        batch_size=options.encoder_batch_size,
        device=options.device,
    )
    return DenseIndex(corpus, _index_dir(options), vectors, options.index_file)


def _limits(options: argparse.Namespace) -> ServerSettings:
    return ServerSettings(
        topk=options.topk,
        max_topk=options.max_topk,
        max_queries=options.max_queries,
        max_query_chars=options.max_query_chars,
        max_passages=options.max_passages,
        max_body_bytes=options.max_body_bytes,
        max_batch=options.max_batch,
        batch_window_s=options.batch_window_ms / 1000,
        threads=options.threads,
        patience_s=options.patience_s,
    )


def _index_dir(options: argparse.Namespace) -> Path:
    return options.index_dir or options.corpus.with_name(options.corpus.name + ".index")


def _or_none(name: str) -> str | None:
    return None if name == "none" else name


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 1 << 16:
        raise ValueError(text)  # argparse names the option and the value
    return port


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m verl_atpo.search_qa.retriever",
        description="Serves passage retrieval over HTTP (docs/retriever.md).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    limits = ServerSettings()
    parser.add_argument("--corpus", type=Path, required=True, help="JSON lines in the form of wiki-18")
    parser.add_argument("--method", choices=["bm25", "dense"], default="bm25", help="sparse or dense retrieval")
    parser.add_argument("--index-dir", type=Path, help="folder of the index (default: beside the corpus, .index)")
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; 0.0.0.0 for other machines")
    parser.add_argument("--port", type=_port, default=8000, help="0 takes a free one and logs it")

    sparse = parser.add_argument_group("bm25")
    sparse.add_argument("--stemmer", default="english", help="language of a Snowball stemmer, or none")
    sparse.add_argument("--stopwords", default="en_plus", help="language code of a stopword list, or none")

    dense = parser.add_argument_group("dense")
    dense.add_argument("--model", default="intfloat/e5-base-v2", help="sentence-transformers model, name or folder")
    dense.add_argument("--index-file", type=Path, help="a ready-made FAISS index over this corpus with this model")
    dense.add_argument("--faiss-factory", default="Flat", help="kind of index to build, e.g. IVF4096,PQ64")
    dense.add_argument("--nprobe", type=int, default=64, help="lists that one query looks into (IVF)")
    dense.add_argument("--query-prefix", help='stands before queries (default: "query: " for E5, else the model\'s)')
    dense.add_argument("--passage-prefix", help='stands before passages (default: "passage: " for E5)')
    dense.add_argument("--train-passages", type=int, default=200_000, help="for an index that must be trained")
    dense.add_argument("--encoder-batch-size", type=int, default=64, help="texts in one batch of the model")
    dense.add_argument("--device", help="torch device of the model (default: the best there is)")

    server = parser.add_argument_group("server")
    server.add_argument("--topk", type=int, default=limits.topk, help="passages, if a request does not say")
    server.add_argument("--max-topk", type=int, default=limits.max_topk, help="most that a request may ask for")
    server.add_argument("--max-queries", type=int, default=limits.max_queries, help="queries in one request")
    server.add_argument("--max-query-chars", type=int, default=limits.max_query_chars, help="length of one query")
    server.add_argument(
        "--max-passages", type=int, default=limits.max_passages, help="queries times topk in one request"
    )
    server.add_argument("--max-body-bytes", type=int, default=limits.max_body_bytes, help="size of one request")
    server.add_argument("--max-batch", type=int, default=limits.max_batch, help="queries in one search")
    server.add_argument("--batch-window-ms", type=float, default=1000 * limits.batch_window_s, help="wait for company")
    server.add_argument("--threads", type=int, default=limits.threads, help="searches at once")
    server.add_argument(
        "--patience-s", type=float, default=limits.patience_s, help="for a client to send a request or take an answer"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
