"""A launcher for hfx: the run's processes as workers of Ray Train."""
