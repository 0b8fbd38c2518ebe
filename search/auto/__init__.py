"""AutoSampling: a population searches the schedule."""
