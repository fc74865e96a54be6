"""A text world with hidden state: find an object, bring it where it belongs; trees branch by fork.

| file | what it holds |
|---|---|
| `engine.py` | the rules: a game, a world being played, its copy |
| `player.py` | a careful or careless player that knows only what it has read |
| `games.py` | random games, verl rows |
| `tool.py`, `tool.yaml` | the `world` tool that verl loads |
| `reward.py` | success, as the tool saw it |
| `chat.py` | tokenizer, chat format |
| `demos.py` | imperfect demonstrations |
| `sampler.py` | batched sampling in the world, success by number of rooms |
| `prepare.py` | command line: data, warm-started model |
| `run.sh` | everything, and the training |
"""
