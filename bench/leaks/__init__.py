"""A challenge set of leaks: made data sets, half of them clean, with what leaks, where and why. See README.md beside this file."""
