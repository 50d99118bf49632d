"""The control plane: REST in, desired state in SQLite, reconciliation with the forwarder."""

__version__ = "0.1.0"
