"""One contest a file: the work, the bare version, ours, the goal."""
