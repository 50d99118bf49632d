"""The fast path: keeper, forwarder and the engine they load."""
