"""Orders: probabilities to rows as pure functions of seed, epoch and position."""
