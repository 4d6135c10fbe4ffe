"""Configuration, objective, transfer phases, callbacks and the run folder."""
