"""A recording -> its transcript: the order of the stages, and what happens in a run."""
