"""Random requests against real POPs on a running clock, each response checked against a model of the content."""
