"""Swift Sampler search: candidates, trials, agents and the guard."""
