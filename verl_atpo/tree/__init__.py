"""Records of what was sampled: generations, turns and the tree of one prompt."""
