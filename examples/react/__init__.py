"""A ReAct loop of one's own with three tools on one state, and verl's continuation of the context."""
