"""When something runs: ticks of cron lines, and conditions held against facts. Pure."""
