"""The service as a Ray Serve application: replicas over a Ray cluster, more of them while much is waiting."""
