"""Passage retrieval over HTTP: ``python -m verl_atpo.search_qa.retriever --corpus corpus.jsonl`` (docs/retriever.md).

    corpus.py       the passages: JSON lines, memory-mapped
    artifacts.py    folders that are built once and reused
    bm25.py         sparse index (bm25s)
    dense.py        dense index (sentence-transformers, FAISS)
    batching.py     concurrent calls collected into batches
    answering.py    queries to JSON, each with its own answer or error
    server.py       the HTTP interface (FastAPI)
    restarting.py   a restart when a mapped file is truncated
    slow_clients.py time limits for slow clients
    words.py        text to words, also in scripts without spaces
    unicode.py      repair of invalid Unicode
    hits.py         validation of answers
    client.py       the client: batched requests, time-outs

Importing this package imports none of them.
"""
