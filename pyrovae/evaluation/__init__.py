"""Numbers and verdicts from trained programs, each with its error."""
