"""The agent as a command line program: it knows environment variables and HTTP, and nothing of Python's packages.

The gateway starts it once per trajectory: `python -S -m examples.black_box.program`.
"""

from __future__ import annotations

import http.client
import json
import os
from typing import Any
from urllib.parse import urlsplit

from examples.black_box.repository import TOOLS, Repository

MOST_CALLS = 8


class Model:
    """Chat completions over one connection."""

    def __init__(self) -> None:
        url = urlsplit(os.environ["OPENAI_BASE_URL"])
        self._connection = http.client.HTTPConnection(str(url.hostname), url.port)
        self._path = f"{url.path}/chat/completions"
        self._headers = {"Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}", "Content-Type": "application/json"}

    def ask(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the assistant's message."""
        body = {"model": os.environ["OPENAI_MODEL"], "messages": messages, "tools": TOOLS}
        self._connection.request("POST", self._path, json.dumps(body), self._headers)
        answer = json.load(self._connection.getresponse())
        if "error" in answer:
            raise SystemExit(answer["error"]["message"])
        return dict(answer["choices"][0]["message"])


def main() -> None:
    """Repair the repository of the task file, and write its files as the result."""
    with open(os.environ["TASK_FILE"], encoding="utf-8") as file:
        task = json.load(file)
    model, messages = Model(), list(task["messages"])
    with Repository(task["extra_info"]) as repository:
        for _ in range(MOST_CALLS):
            messages.append(model.ask(messages))
            calls = messages[-1].get("tool_calls") or []
            if not calls:
                break
            for call in calls:
                output = repository.call(call["function"]["name"], call["function"]["arguments"])
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": output})
        with open(os.environ["RESULT_FILE"], "w", encoding="utf-8") as file:
            json.dump({"files": repository.files()}, file)


if __name__ == "__main__":
    main()
