"""Steps that clean rows: each drops or changes what a source yields, and says why."""
