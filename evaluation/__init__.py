"""Exact metrics, plots, error gallery, Grad-CAM, comparison and the report. Knows of run folders, not of flags."""
