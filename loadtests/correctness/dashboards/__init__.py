"""Every query of the dashboards, rules and alerts under `deploy/`, and what they need of `/metrics`."""
