"""Messages between nodes: in memory, or through Redis."""
