"""One connected client, on whichever transport."""
