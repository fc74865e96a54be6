"""Settings of the retriever and its command line: each field is an option, and its description is the help text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

E5_PREFIXES = ("query: ", "passage: ")


def _written_as(metavar: str, parse: Callable[[str], Any], show: Callable[[Any], str] = str) -> Any:
    """Format of a value on the command line if it differs from Python."""
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=lambda words: parse(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [show(value)],
    )


def _port(text: str) -> int:
    if not 0 <= int(text) < 1 << 16:
        raise ValueError(f"port {text} cannot work: expected 0 to 65535")
    return int(text)


OR_NONE = _written_as("NAME", lambda name: None if name == "none" else name, lambda name: name or "none")
MILLISECONDS = _written_as("FLOAT", lambda text: float(text) / 1000, lambda seconds: f"{1000 * seconds:g}")
PORT = _written_as("INT", _port)


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """Limits and batching of the server.

    Attributes:
        topk: passages per query if a request names no number.
        max_topk: maximum number of passages per query.
        max_queries: queries in one request.
        max_query_chars: characters of one query.
        max_passages: passages that one request may ask for, queries times topk.
        max_body_bytes: bytes of one request.
        max_batch: queries in one search.
        batch_window_s: time that a query waits for others while a thread is idle; milliseconds on the command line.
        threads: concurrent searches.
        patience_s: seconds that a client has to send a request, and again to receive its answer.
    """

    topk: int = 3
    max_topk: int = 100
    max_queries: int = 1024
    max_query_chars: int = 8192
    max_passages: int = 16_384
    max_body_bytes: int = 4 << 20
    max_batch: int = 64
    batch_window_s: Annotated[float, tyro.conf.arg(name="batch-window-ms"), MILLISECONDS] = 0.002
    threads: int = 1
    patience_s: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name == "batch_window_s" else 1
            if not math.isfinite(value) or value < least:
                raise ValueError(f"{field.name}={value!r} cannot work: expected a number of at least {least}")
        if self.topk > self.max_topk:
            raise ValueError(f"topk={self.topk} cannot work: expected at most max_topk={self.max_topk}")


@dataclasses.dataclass(frozen=True)
class Bm25Settings:
    """Conversion of text to terms.

    Attributes:
        stemmer: a Snowball stemmer's language, or ``None`` for words as they are.
        stopwords: a language code of ``bm25s``, or ``None`` to keep all words.
    """

    stemmer: Annotated[str | None, OR_NONE] = "english"
    stopwords: Annotated[str | None, OR_NONE] = "en_plus"

    def __post_init__(self) -> None:
        import Stemmer

        known = Stemmer.algorithms()
        if self.stemmer is not None and self.stemmer not in known:
            raise ValueError(f"stemmer={self.stemmer!r} cannot work: expected none or one of {', '.join(known)}")


@dataclasses.dataclass(frozen=True)
class DenseSettings:
    """Encoding of text as vectors, and search among them.

    Attributes:
        model: name or folder of a sentence-transformers model.
        factory: FAISS's description of the index; ``Flat`` is exact, ``IVF4096,PQ64`` small and fast.
        nprobe: lists of an IVF index that one query looks into; other kinds ignore it.
        query_prefix: text before queries; ``None`` means the prefix of E5 models, for others the model's own prompt.
        passage_prefix: the same for passages.
        train_passages: passages on which a trainable index is trained.
        batch_size: texts in one batch of the model.
        device: torch's name of the device, ``None`` for the best one there is.
    """

    model: str = "intfloat/e5-base-v2"
    factory: Annotated[str, tyro.conf.arg(name="faiss-factory")] = "Flat"
    nprobe: int = 64
    query_prefix: str | None = None
    passage_prefix: str | None = None
    train_passages: int = 200_000
    batch_size: Annotated[int, tyro.conf.arg(name="encoder-batch-size")] = 64
    device: str | None = None

    def prefixes(self) -> tuple[str | None, str | None]:
        """Return the prefixes of queries and passages. E5 is recognized by its name; instruct models differ."""
        words = Path(self.model).name.lower().split("-")
        query, passage = E5_PREFIXES if "e5" in words and "instruct" not in words else (None, None)
        return (
            query if self.query_prefix is None else self.query_prefix,
            passage if self.passage_prefix is None else self.passage_prefix,
        )


@dataclasses.dataclass(frozen=True)
class Options:
    """Serve passage retrieval over HTTP (docs/retriever.md).

    Attributes:
        corpus: JSON lines in the form of wiki-18.
        method: sparse or dense retrieval.
        index_dir: folder of the index; by default next to the corpus, with the suffix .index.
        index_file: an existing FAISS index over this corpus with this model, for dense retrieval.
        host: address to serve on; 0.0.0.0 for other machines.
        port: port to serve on; 0 uses a free one and logs it.
        bm25: settings of sparse retrieval.
        dense: settings of dense retrieval.
        server: settings of both.
    """

    corpus: Path
    method: Literal["bm25", "dense"] = "bm25"
    index_dir: Path | None = None
    index_file: Path | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, PORT] = 8000
    bm25: Bm25Settings = dataclasses.field(default_factory=Bm25Settings)
    dense: DenseSettings = dataclasses.field(default_factory=DenseSettings)
    server: ServerSettings = dataclasses.field(default_factory=ServerSettings)

    @property
    def index_folder(self) -> Path:
        """Folder of the index."""
        return self.index_dir or self.corpus.with_name(self.corpus.name + ".index")


def options_of(arguments: list[str] | None) -> Options:
    """Parse a command line; end the program with code 2 if it is invalid."""
    flat = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    return tyro.cli(Options, prog="python -m verl_atpo.search_qa.retriever", args=arguments, config=flat)
