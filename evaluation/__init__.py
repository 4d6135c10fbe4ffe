"""Predictions, exact metrics, plots, Grad-CAM, comparison and the report. Uses run folders, never flags."""

import startup

__getattr__ = startup.lazy(__name__, {"evaluate": "evaluation.assessment:evaluate"})
