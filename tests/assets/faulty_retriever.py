"""A search server that misbehaves at random: ``python -m tests.assets.faulty_retriever PORT COUNTS.json``.

How often it did what is written to ``COUNTS.json`` as it goes.
"""

from __future__ import annotations

import json
import random
import sys
from collections import Counter
from pathlib import Path

from aiohttp import web

from tests.assets.search_servers import dropped, fine, says, slow, status

FAULTS = {
    "slow": slow,
    "dropped": dropped,
    "500": status(500),
    "malformed": says("<html>"),
    "shape": says('{"result": 3}'),
}
FAULTY_SHARE = 0.4


def main(port: int, counts_file: Path) -> None:
    rng, counts = random.Random(port), Counter()
    if counts_file.is_file():  # started again
        counts.update(json.loads(counts_file.read_text()))

    async def handle(request: web.Request) -> web.StreamResponse:
        queries = (await request.json())["queries"]
        kind = rng.choice(list(FAULTS)) if rng.random() < FAULTY_SHARE else "fine"
        counts[kind] += 1
        unfinished = counts_file.with_suffix(".part")  # the test kills this server at any time
        unfinished.write_text(json.dumps(counts))
        unfinished.replace(counts_file)
        return await FAULTS.get(kind, fine)(request, queries)

    app = web.Application()
    app.router.add_post("/retrieve", handle)
    web.run_app(app, host="127.0.0.1", port=port, print=None, reuse_address=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
