"""The engine: takes jobs, runs them, ends them. Knows protocols only by their seam."""
