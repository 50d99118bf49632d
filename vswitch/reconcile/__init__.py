"""Makes the forwarder's configuration what the store says it should be."""
