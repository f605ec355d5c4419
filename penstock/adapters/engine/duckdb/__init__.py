"""DuckDB as engine: in this process, on all cores, out of core."""
