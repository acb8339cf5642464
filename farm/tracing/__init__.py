"""Traces of jobs, from the submit to the webhook; nothing is recorded unless OpenTelemetry's variables say where to."""
