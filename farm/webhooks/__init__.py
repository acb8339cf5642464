"""Webhooks: their bodies, signatures, deliveries and retries."""
