"""Detection of runs that cannot continue: dead or stuck workers, bugs in user code, useless steps."""
