"""Configuration, heads, transfer phases, callbacks and the run folder."""
