"""A launcher for hfx: the run as a job of Slurm."""
