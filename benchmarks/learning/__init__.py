"""Does each part earn its keep: arms on one task, one warm start, the same prompts and as many trajectories.

| file | what it holds |
|---|---|
| `arms.py` | the arms: what each sets, how many seeds |
| `task.py` | the task and everything that all arms share |
| `run.py` | one `main_ppo` run, and its result file |
| `__main__.py` | command line: all runs that have no result file yet |
| `curves.py` | result files, curves over sampled tokens, paired comparison |
"""
