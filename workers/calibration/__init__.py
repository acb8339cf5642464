"""Calibration of step masks: candidates are rendered with the loaded weights and compared with the full computation."""
