"""Floor 1: what a user declares, as frozen records. No behaviour, no I/O, standard library and `ground` only."""
