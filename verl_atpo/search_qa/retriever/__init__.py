"""Passage retrieval over HTTP: ``python -m verl_atpo.search_qa.retriever --corpus corpus.jsonl`` (docs/retriever.md).

    corpus.py       the passages: JSON lines, memory-mapped
    artifacts.py    a folder that is built once and used again
    bm25.py         sparse index (bm25s)
    dense.py        dense index (sentence-transformers, FAISS)
    batching.py     many concurrent calls, few batches
    answering.py    queries to JSON, each with an answer or an error of its own
    server.py       the HTTP interface (FastAPI)
    restarting.py   started again when a file is cut short under it
    slow_clients.py slow clients are let go
    words.py        text to words, in scripts without spaces too
    unicode.py      text that can travel
    hits.py         an answer, read without trust
    client.py       the other end: batched requests, time-outs

Importing this package imports none of them.
"""
