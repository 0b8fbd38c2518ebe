"""The Swift Sampler: scores to probabilities by cdf, cgf and ten parameters."""
