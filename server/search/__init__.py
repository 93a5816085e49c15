"""Search: words of messages in the channels that one may read, newest first."""
