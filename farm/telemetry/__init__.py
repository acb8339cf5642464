"""Telemetry of a process: log, metrics, traces."""
