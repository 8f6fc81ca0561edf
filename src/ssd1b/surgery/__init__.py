"""Floor 3: a student cut out of a teacher by a plan, and the report of what stays. Knows no files."""
