"""Code that the examples share; a task's own folder holds only its task. The tiny model is `verl_atpo.tiny`.

| file | what it holds |
|---|---|
| `run.sh`, `steps.sh` | the run script: prepare, train with main_ppo, show |
| `answer_reward.py` | exact match of the tagged answer, a reward that verl loads |
| `stages.py` | the stages of a task's `prepare` |
| `summary.py` | command line: accuracy before and after training, learning curve |
"""
