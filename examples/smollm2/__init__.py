"""A real small language model, SmolLM2-135M-Instruct, that learns to use a calculator.

| file | what it holds |
|---|---|
| `model.py` | the model, from a file inside a Python package |
| `problems.py` | problems of 1 to 3 steps, the prompt, verl rows |
| `arithmetic.py` | what the calculator works out |
| `calculator.py` | the `calc` function tool that verl loads |
| `reward.py` | the exact-number reward that verl loads |
| `prepare.py` | command line: data and model |
| `report.py` | command line: metrics of all starts, learning curve, trees before and after as text |
| `run.sh` | all of it, training included; a stopped run continues |

Calls are written as the paper's tags, by `verl_atpo.search_qa.tag_agent`.
"""
