"""A project's schedule and dependencies as files of other schedulers. Pure: records in, text out."""
