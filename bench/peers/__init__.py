"""The same work by the tools a team would otherwise use, each in an environment of its own. They are measured, never imported by Penstock."""
