"""A laboratory of many small training runs: a minute each, without Ray and engine, in one process and thread.

Trees are grown by the package's grower, credited by its estimator and trained with its loss or verl's; the replacements
of Ray, vLLM and FSDP are small enough to read.

| file | what it holds |
|---|---|
| `arms.py` | the arms and their settings |
| `episodes.py` | the interface of tasks, and the agent loop |
| `hopqa.py`, `text_world.py`, `tasks.py` | the tasks |
| `model.py` | the model as plain functions |
| `engine.py` | sampling for many loops at once, with a key-value cache |
| `rollout.py` | trees and their rows, accuracy |
| `update.py` | advantages, losses, the optimizer; every distinct token once |
| `run.py` | a run, its checkpoint, its file |
| `gradient.py` | quality of one step's gradient, without training |
| `copies.py` | repetition of turns and contexts |
| `uncertainty.py` | correlation of a turn's NLL or entropy with that of its context |
| `decided.py` | undecided share of the outcome, and remaining tokens, after each turn |
| `curves.py`, `report.py`, `parts.py`, `tuning.py` | costs and tables from the result files |
| `frontier.py`, `distance.py` | trees and the line of GRPO's sizes: as a plot, in numbers |
| `profiles.py`, `clock.py`, `agreement.py` | a plot; rollout time; agreement with verl |
| `picture.py` | the tree in the README |
| `__main__.py` | command line: all runs that have no file yet |
"""
