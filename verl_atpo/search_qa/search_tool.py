"""The ``search`` tool: passages from a retriever server, for verl's agent loop.

Setting: ``actor_rollout_ref.rollout.multi_turn.tool_config_path=.../verl_atpo/search_qa/search.yaml``. The tool works
with ``python -m verl_atpo.search_qa.retriever`` and with any server with Search-R1's interface (docs/retriever.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse
from verl.utils.rollout_trace import rollout_trace_op

from verl_atpo.search_qa.retriever.client import RetrieverClient, RetrieverError
from verl_atpo.search_qa.retriever.hits import Passage
from verl_atpo.settings import Amount, ConfigError, Positive, PositiveAmount, read, settings, show
from verl_atpo.tools.contract import Branching, ToolOutage, TransientToolError
from verl_atpo.tools.text import neutralise

NOTHING_FOUND = "Nothing found."
ENDPOINT = "/retrieve"
MOVED = {"retries": "algorithm.atpo.tools.retries", "backoff_s": "algorithm.atpo.tools.retry_delay_s"}
"""Earlier settings of the tool -> settings of all tools that replace them."""


@settings
class SearchConfig:
    """Settings of the tool, under ``config`` in its YAML."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server, with or without the endpoint's path ``/retrieve``."""
    topk: Positive = 3
    """Passages per query."""
    timeout_s: PositiveAmount = 30.0
    """Seconds one request may take."""
    batch_window_s: Amount = 0.005
    """Seconds that a query waits for others, to be sent in one request with them; 0 sends at once."""
    max_batch: Positive = 64
    """Queries in one request."""
    max_requests: Positive = 8
    """Concurrent requests per process."""
    max_query_chars: Positive = 1000
    """A longer query is cut."""
    max_passage_chars: Positive = 4000
    """A longer passage is cut."""

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ValueError(
                f"url={show(self.url)} cannot work: expected an address such as http://127.0.0.1:8000 (is SEARCH_URL "
                "set to one?)."
            )

    @property
    def endpoint(self) -> str:
        """``url`` with the path of the endpoint."""
        base = self.url.rstrip("/")
        return base if base.endswith(ENDPOINT) else base + ENDPOINT


def _check_schema(schema: OpenAIFunctionToolSchema) -> None:
    """Refuse the schema of another search tool, since all its calls would be answered by an error."""
    parameters = schema.function.parameters
    query = parameters.properties.get("query")
    if query is None or query.type != "string" or list(parameters.required) not in ([], ["query"]):
        found = {name: each.type for name, each in parameters.properties.items()}
        raise ConfigError(
            f"search.tool_schema has the arguments {found}, required {list(parameters.required)}: expected one "
            "required string `query`. Take the schema of verl_atpo/search_qa/search.yaml."
        )


def _is_address(url: str) -> bool:
    """Return whether requests can be sent to an address: a scheme, a host, optionally port and path, nothing else."""
    try:
        address = urlsplit(url)
        port = address.port
    except ValueError:  # a port that is no number or too large, half of an IPv6 address
        return False
    plain = url.isprintable() and " " not in url and "\\" not in url
    rest = bool(address.query or address.fragment or address.username is not None) or url[-1:] in "?#"
    return plain and not rest and address.scheme in ("http", "https") and bool(address.hostname) and port != 0


class SearchTool(BaseTool):
    """Search tool for passages. A call depends on its query only, so expansions replay it from the recording.

    Args:
        config: settings of :class:`SearchConfig`, and verl's ``type``.
        tool_schema: schema that the model reads; one required string ``query``.

    Raises:
        ValueError: a setting that cannot work, or no schema.
    """

    branching = Branching.STATELESS

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None) -> None:
        if tool_schema is None:
            raise ConfigError("search.tool_schema is missing: take the one of verl_atpo/search_qa/search.yaml")
        _check_schema(tool_schema)
        super().__init__(config, tool_schema)
        self.settings = self.read_settings(config)
        self._client = RetrieverClient(
            self.settings.endpoint,
            topk=self.settings.topk,
            timeout_s=self.settings.timeout_s,
            batch_window_s=self.settings.batch_window_s,
            max_batch=self.settings.max_batch,
            max_requests=self.settings.max_requests,
        )

    @classmethod
    def read_settings(cls, config: dict[str, Any]) -> SearchConfig:
        """Read the settings in a tool's ``config``; the start-up checks call this before any tool is made.

        Raises:
            ConfigError: a setting that cannot work.
        """
        for old in MOVED.keys() & config.keys():
            raise ConfigError(f"search.{old} is {MOVED[old]} now, for every tool: set it there and delete it here.")
        return read(SearchConfig, {key: value for key, value in config.items() if key != "type"}, "search")

    @rollout_trace_op
    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        """Search the passages for a query.

        Args:
            instance_id: verl's; unused, since the tool holds no state.
            parameters: the model's arguments, not trusted.
            **kwargs: arguments of verl's agent loop; unused.

        Returns:
            The passages as text, the reward 0.0, and the metrics ``seconds``, ``batch_size`` and ``passages``. A call
            without a usable query gets an error text, and no metrics.

        Raises:
            TransientToolError: no answer, for a transient reason.
            ToolOutage: the server refused the request.
        """
        query = parameters.get("query") if isinstance(parameters, dict) else None
        if not isinstance(query, str) or not query.strip():
            text = f'Error: search needs a non-empty string "query", got {str(parameters)[:200]}.'
            return ToolResponse(text=neutralise(text)), 0.0, {}
        try:
            answer = await self._client.retrieve(_clean(query, self.settings.max_query_chars))
        except RetrieverError as error:
            raise (TransientToolError if error.passing else ToolOutage)(str(error)) from error
        metrics = {
            "seconds": answer.seconds,
            "batch_size": answer.batch_size,
            "passages": len(answer.passages),
        }
        return ToolResponse(text=observation(answer.passages, self.settings.max_passage_chars)), 0.0, metrics


def observation(passages: Sequence[Passage], max_chars: int) -> str:
    """Format passages for the model: ``Doc 1(Title: "...") text``, one line each, harmless (see ``neutralise``).

    Args:
        passages: best first. Runs of white space become one blank, so no passage can look like two.
        max_chars: longer texts are cut, and the cut is marked by an ellipsis.
    """
    lines = []
    for number, passage in enumerate(passages, start=1):
        title, _, text = passage.contents.strip().partition("\n")
        if not text:  # a corpus without titles
            title, text = '""', title
        lines.append(f"Doc {number}(Title: {_cut(title, max_chars)}) {_cut(text, max_chars)}")
    return neutralise("\n".join(lines)) if lines else NOTHING_FOUND


def _cut(text: str, max_chars: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= max_chars else text[:max_chars].rstrip() + "…"


def _clean(query: str, max_chars: int) -> str:
    """Convert text to one line of valid Unicode (a model's JSON may hold half a surrogate pair)."""
    return " ".join(query.encode("utf-8", "replace").decode("utf-8").split())[:max_chars]
