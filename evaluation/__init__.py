"""Predictions, exact metrics, plots, Grad-CAM, comparison and the report. Knows of run folders, not of flags."""

import startup

__getattr__ = startup.lazy(__name__, {"evaluate": "evaluation.assessment:evaluate"})
