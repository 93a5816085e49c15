"""The durable messages of all channels, in MongoDB."""
