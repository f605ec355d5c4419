"""`python -m bench.peers [NAME ...] [--quick]`: runs Penstock and its peers in turn and prints one JSON line for each peer."""

from __future__ import annotations

import contextlib

from bench.__main__ import main

if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main("python -m bench.peers", "bench.peers", ("csv", "flights", "pit"))
