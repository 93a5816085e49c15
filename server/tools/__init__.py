"""What is run by hand: doctor, seed, preflight."""
