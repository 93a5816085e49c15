"""Who is in a channel, and who was."""
