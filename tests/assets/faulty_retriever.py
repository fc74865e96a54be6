"""A search server that misbehaves in random order: ``python -m tests.assets.faulty_retriever PORT COUNTS.json``.

How often it did what is written to ``COUNTS.json`` as it goes, and what became of its slow answers: whether the client
was still there.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web

from tests.assets.search_servers import Behaviour, dropped, fine, says, slow, status

FAULTS: dict[str, Behaviour] = {
    "slow": slow,
    "dropped": dropped,
    "500": status(500),
    "malformed": says("<html>"),
    "shape": says('{"result": 3}'),
}
GIVEN_UP, WAITED_FOR = "slow, given up", "slow, waited for"
"""The client of a slow answer had closed the connection when it came (it timed out), or had not."""

_BLOCK = [*FAULTS, *["fine"] * 7]


def kinds(rng: random.Random) -> Iterator[str]:
    """What to do next, without end; every fault once in twelve requests."""
    while True:
        yield from rng.sample(_BLOCK, len(_BLOCK))


def main(port: int, counts_file: Path) -> None:
    """Serves until it is killed; goes on with the counts that are there."""
    counts = Counter(json.loads(counts_file.read_text()) if counts_file.is_file() else {})
    kind_of_next = kinds(random.Random(sum(counts.values())))

    def count(kind: str) -> None:
        counts[kind] += 1
        unfinished = counts_file.with_suffix(".part")  # the test kills this server at any time
        unfinished.write_text(json.dumps(counts))
        unfinished.replace(counts_file)

    async def handle(request: web.Request) -> web.StreamResponse:
        queries = (await request.json())["queries"]
        count(kind := next(kind_of_next))
        response = await FAULTS.get(kind, fine)(request, queries)
        if kind == "slow":
            count(GIVEN_UP if request.transport is None or request.transport.is_closing() else WAITED_FOR)
        return response

    app = web.Application()
    app.router.add_post("/retrieve", handle)
    web.run_app(app, host="127.0.0.1", port=port, print=None, reuse_address=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
