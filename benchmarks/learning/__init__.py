"""Comparison of arms on one task with one warm start, the same prompts and as many trajectories.

| file | what it holds |
|---|---|
| `arms.py` | the arms: what each sets, how many seeds |
| `task.py` | the task and everything that all arms share |
| `__main__.py` | command line: all runs that have no result file yet |
| `session.py` | the runs of a seed, one after the other, with one trainer and one engine |
| `results.py` | the small file that stays of a run |
| `curves.py` | what the files say: curves over sampled tokens, paired comparison |
| `report.py` | tables and plots of it |
"""
