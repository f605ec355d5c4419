"""Floor 2: names and edges of a project, and selection over them. Pure."""
