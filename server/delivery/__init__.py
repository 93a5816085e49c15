"""From the log and the broker to who listens: order, repair, fan-out."""
