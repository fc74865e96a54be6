"""The end of runs that cannot go on: workers that died or stand still, bugs in user code, useless steps."""
