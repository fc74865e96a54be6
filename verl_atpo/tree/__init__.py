"""What was sampled: generations, turns and the tree of one prompt."""
