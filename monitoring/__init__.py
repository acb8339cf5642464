"""Rules, alerts and dashboards for Prometheus and Grafana, as data from which the files in deploy/ are written."""
