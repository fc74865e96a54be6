"""Price problems of several steps, worked out in a Python sandbox whose variables persist between calls.

| file | what it holds |
|---|---|
| `problems.py` | problems of 1 to 4 steps, verl rows |
| `chat.py` | tokenizer, chat format |
| `demos.py` | imperfect demonstrations |
| `prepare.py` | command line: data and a warm-started model |
| `run.sh` | all of it, training included |

The tool is `verl_atpo.tools.python`; model, training, reward and tables are those of `examples.kit`.
"""
