"""What the tests stand on: real processes, a faulty network, a good client and a checker that can fail."""
