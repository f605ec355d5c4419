"""Floor 0: errors, clock, ids, names, paths, failpoints. Standard library only."""
