"""`make demo-ops`: Prometheus and Alertmanager beside a farm that is broken in five ways, and what they tell of it."""
