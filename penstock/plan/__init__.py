"""Floor 3: deciding, purely. (declared, recorded, observed) -> actions. No I/O, no clock."""
