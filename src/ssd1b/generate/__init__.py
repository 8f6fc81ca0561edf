"""A request in, pictures out."""
