"""Floor 4: acting. Takes one action of a plan after the other, computes, audits, publishes, records."""
