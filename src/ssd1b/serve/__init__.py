"""Models behind HTTP: a queue that survives, one worker, the dialects of existing clients, and a page."""
