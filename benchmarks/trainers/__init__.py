"""Trainers that wait for rollouts and trainers that do not, side by side: `python -m benchmarks.trainers`."""
