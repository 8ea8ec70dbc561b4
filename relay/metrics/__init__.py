"""What Prometheus reads: the table of metrics, their files, and the answer of `/metrics`."""
