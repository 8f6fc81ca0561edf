"""Floor 7: the command line, one file per verb; the only place where rooms are wired together."""
