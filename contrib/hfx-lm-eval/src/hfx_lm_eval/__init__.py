"""Tasks of the lm-evaluation-harness for hfx."""
