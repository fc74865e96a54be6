"""Reward of the words loop: the share of words with an even number."""

from __future__ import annotations

import re


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    numbers = [int(number) for number in re.findall(r"w(\d+)", solution_str)]
    return sum(number % 2 == 0 for number in numbers) / max(1, len(numbers))
