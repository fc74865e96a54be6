r"""Rewards of question answering, with the standard library only.

| what | file | public name |
|---|---|---|
| normalisation, exact match and F1 | ``text.py`` | ``normalise``, ``exact_match``, ``f1_score`` |
| the forms of a ground truth | ``text.py`` | ``golden_answers`` |
| the policy's text without retrieved text | ``observations.py`` | ``split_turns`` |
| the form of a response and the answer in it | ``response.py`` | ``format_error``, ``extract_answer`` |
| the function that verl calls | ``qa.py`` | ``compute_score`` |

A recipe names the reward by config::

    reward.custom_reward_function.path=pkg://verl_atpo.search_qa.rewards.qa
    reward.custom_reward_function.name=compute_score
    +reward.custom_reward_function.reward_kwargs.style=tools
"""
