"""Tests of the calibration of step masks."""
