"""Floor 3: the domain's own knowledge, one folder a trade. Pure."""
