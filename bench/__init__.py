"""Benchmarks: Penstock and a bare hand-written version of the same work, in turn, in the same run."""
