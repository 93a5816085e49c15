"""Live documents: stored, queried, watched."""
