"""A ReAct loop of your own with three tools on one state, and verl's continuation of the context."""
