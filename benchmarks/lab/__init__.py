"""A laboratory with the power to tell: training runs of a minute, without Ray and engine, in one process and thread.

Trees are grown by the package's grower, credited by its estimator and trained with its loss or verl's; what stands in
for Ray, vLLM and FSDP is small enough to read.

| file | what it holds |
|---|---|
| `arms.py` | the arms: what each sets |
| `episodes.py` | what a task is, and the agent loop |
| `hopqa.py`, `text_world.py`, `tasks.py` | the tasks |
| `model.py` | the model as plain functions |
| `engine.py` | sampling for many loops at once, with a key-value cache |
| `rollout.py` | trees and their rows, accuracy |
| `update.py` | advantages, losses, the optimizer; every distinct token once |
| `run.py` | a run, its checkpoint, its file |
| `gradient.py` | what one step's gradient is worth, without training |
| `copies.py` | how often turns and contexts repeat |
| `uncertainty.py` | whether a turn's NLL or entropy is that of its context |
| `decided.py` | how much of an outcome is undecided after each turn, and how much is left to be said |
| `curves.py`, `report.py`, `parts.py`, `tuning.py` | what the files say: costs, tables |
| `profiles.py`, `frontier.py`, `clock.py`, `agreement.py` | plots; rollout time; whether verl says the same |
| `__main__.py` | command line: all runs that have no file yet |
"""
