"""Detection of runs that cannot go on: dead or stuck workers, bugs in user code, useless steps."""
