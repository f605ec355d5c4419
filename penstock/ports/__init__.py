"""Floor 2: one file per port. A port's docstring is its protocol: who calls, when, what is durable, what a repeat does."""
