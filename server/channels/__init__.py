"""The use cases of channels: publishing, subscribing, reading what was."""
