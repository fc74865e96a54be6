"""Time limits on foreign code (tools, agent loops, rewards) that hold even if it hangs or swallows cancellation."""
