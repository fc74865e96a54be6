"""What the policy wrote: exact where our sampler says it, by the marks of observations elsewhere."""

from __future__ import annotations

import pytest

from verl_atpo.policy_text import policy_text

CALL = '<tool_call>\n{"name": "guess", "arguments": {"number": 4}}\n</tool_call>'
SEEN = "\nuser\n<tool_response>\nthe number is 9\n</tool_response>\nassistant\n"


def test_the_sampler_knows() -> None:
    assert policy_text(f"{CALL}{SEEN}it is 9", {"policy_text": "own"}) == "own"
    assert policy_text("text", {"policy_text": ""}) == ""


@pytest.mark.parametrize("extra_info", [None, {}, {"index": 3}, {"policy_text": None}])
def test_under_verls_sampler_observations_are_cut_out(extra_info: dict | None) -> None:
    text = policy_text(f"{CALL}{SEEN}it is 4", extra_info)
    assert "9" not in text and "it is 4" in text and '"number": 4' in text
    tags = "<search>q</search>\n<result>\n9\n</result>\nit is 4"
    assert "9" not in policy_text(tags, extra_info)
    assert policy_text("no call at all", extra_info) == "no call at all"
