"""What each method of the recipes samples per prompt: leaves, tokens and tool calls, computed from the recipes."""
