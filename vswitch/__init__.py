"""The control plane: REST in, desired state in SQLite, reconciliation with the forwarder."""
