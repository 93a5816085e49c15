"""Messages that are written into MongoDB and published from there: by the product's own transactions, or for later."""
