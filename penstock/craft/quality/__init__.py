"""Checks as SQL: one aggregate that judges a table, and queries of the rows that fail and of those that stay."""
