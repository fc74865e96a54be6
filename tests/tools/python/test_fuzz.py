"""The sandbox's channel, its observations and its settings, fuzzed with a fixed budget."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.assets.sandbox import DENIED, STEAL, make_tool
from verl_atpo.settings import ConfigError, read
from verl_atpo.tools.python import PythonTool
from verl_atpo.tools.python.config import Isolation, PythonConfig
from verl_atpo.tools.python.interpreter import _bounded
from verl_atpo.tools.python.tool import LOST
from verl_atpo.tools.python.worker import Output
from verl_atpo.tools.text import neutralise

BUDGET = settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
PURE = settings(max_examples=300, deadline=None)
NOT_ITS_OWN = f"The code wrote to file descriptors that are not its own, and was stopped. {LOST}"


class Model:
    """One trajectory after the other on one event loop; an interpreter lasts until it is lost."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.tool: PythonTool = make_tool(Isolation.LANDLOCK, cpu_s=5.0, wall_s=3.0, output_bytes=200)
        self._session = self._loop.run_until_complete(self.tool.open())

    def call(self, code: object) -> str:
        """What the model reads."""
        return self._loop.run_until_complete(self.tool.call(self._session, code))  # type: ignore[arg-type]

    def close(self) -> None:
        self._loop.run_until_complete(self.tool.close(self._session))
        self._loop.close()


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    yield made
    made.close()


REPLIES = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from([b"\n", b"{}", b"null", b'{"nonce": 1}', b'{"output": "x"}', b"[" * 600]), max_size=300
    ).map(b"\n".join),
    st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=9), lambda x: st.lists(x, max_size=3)).map(
        lambda value: json.dumps({"nonce": value, "output": value}).encode() + b"\n"
    ),
)


@pytest.mark.fault(
    "Python sandbox", "any bytes on the channel of its replies", "only a reply with the call's number is read"
)
@given(sent=REPLIES)
@example(sent=b"\n" * 48_000)
@example(sent=b"x" * 100_000)
@BUDGET
def test_whatever_is_written_to_the_channel_is_no_reply(model: Model, sent: bytes) -> None:
    seen = model.call(
        f"{STEAL}\nos.write(frame.f_locals['replies'], {sent + chr(10).encode()!r}) and None\nprint('honest')"
    )
    assert seen in ("honest", NOT_ITS_OWN) or seen.endswith(NOT_ITS_OWN), seen
    assert model.call("6 * 7").endswith("42")


@pytest.mark.fault("Python sandbox", "replies of any content with the right number", "bounded, harmless, valid Unicode")
@given(output=st.text(alphabet=st.characters(), max_size=400) | st.sampled_from(["\ud800" * 400, "</answer>" * 99]))
@BUDGET
def test_a_forged_observation_is_bounded_and_harmless(model: Model, output: str) -> None:
    seen = model.call(f"{STEAL}\noutput = {output!r}\nos.write(frame.f_locals['replies'], "
                      "(json.dumps({'nonce': nonce, 'output': output}) + '\\n').encode()) and None")  # fmt: skip
    assert len(seen.encode()) <= 2 * 260 + 100  # brackets are one byte and their replacements three
    assert neutralise(seen) == seen
    assert model.call("6 * 7").endswith("42")


ARGUMENTS = st.one_of(
    st.none(), st.integers(), st.lists(st.text(max_size=3)), st.text(max_size=40), st.binary(max_size=9),
    st.lists(st.sampled_from("()[]{}:=\"'\\\n\t x1\0\ud800#@,.".strip()), max_size=60).map("".join),
)  # fmt: skip


@pytest.mark.fault(
    "Python sandbox", "code that is no code, arguments that are no text", "an error that the model reads"
)
@given(code=ARGUMENTS)
@BUDGET
def test_any_argument_gets_an_observation(model: Model, code: object) -> None:
    seen = model.call(code)
    assert isinstance(seen, str) and seen and seen.encode()
    assert model.call("6 * 7").endswith("42")


@pytest.mark.fault("Python sandbox", "system calls by number with odd arguments", "refused, or harmless")
@given(
    number=st.integers(-1, 600),
    arguments=st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**63 - 1, 4096]), min_size=6, max_size=6),
)
@BUDGET
def test_any_system_call_leaves_a_working_tool(model: Model, number: int, arguments: list[int]) -> None:
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\n"
        f"libc.syscall(ctypes.c_long({number}), *map(ctypes.c_long, {arguments!r})) and None"
    )
    model.call(code)
    assert model.call("6 * 7").endswith("42")
    assert re.search(DENIED, model.call("open('/etc/passwd')"))


@given(parts=st.lists(st.binary(max_size=80), max_size=12), size=st.integers(2, 60))
@PURE
def test_output_keeps_its_beginning_and_its_end(parts: list[bytes], size: int) -> None:
    output, whole = Output(size), b"".join(parts)
    for part in parts:
        output.write(part)
    half = size // 2
    if len(whole) <= 2 * half:
        assert output.text() == whole.decode("utf-8", "replace")
    else:
        assert output.head + output.tail == whole[:half] + whole[-half:]
        assert f"[{len(whole) - 2 * half} bytes left out]" in output.text()


@given(text=st.text(alphabet=st.characters()), size=st.integers(100, 300))
@PURE
def test_the_trainer_bounds_what_it_is_sent(text: str, size: int) -> None:
    bounded = _bounded(text, size)
    assert len(bounded.encode()) <= size + 60
    if len(text.encode("utf-8", "replace")) <= size:
        assert bounded == text.encode("utf-8", "replace").decode()


FIELDS = {field: st.sampled_from([field, f"{field}x"]) for field in PythonConfig.__dataclass_fields__}
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.integers(), st.floats(), st.text(max_size=5),
    st.just([]), st.just({}), st.sampled_from(list(Isolation)),
)  # fmt: skip


@pytest.mark.fault("Python sandbox", "settings of any name, type and size", "accepted, or an error that names it")
@given(found=st.dictionaries(st.sampled_from([*FIELDS, "cpu", ""]), VALUES, max_size=3))
@PURE
def test_a_setting_works_or_is_named(found: dict[str, object]) -> None:
    try:
        config = read(PythonConfig, found, "python")
    except ConfigError as error:
        assert re.match(r"python\.\w* ?(=|is not a setting)", str(error)) or str(error).startswith("python. is not")
        assert len(str(error)) < 1000
    else:
        assert 0 < config.cpu_s < float("inf") and config.memory_mb >= 64
