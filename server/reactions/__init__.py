"""Reactions to messages: a row for each, and now and then a summary of them in the channel."""
