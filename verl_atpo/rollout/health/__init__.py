"""What ends a run that cannot go on: dead workers, bugs in user code, alarms."""
