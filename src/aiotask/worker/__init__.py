"""The worker: small stages that hand batches to each other."""
