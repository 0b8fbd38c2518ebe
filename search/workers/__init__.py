"""Workers that run trials: processes or Ray."""
