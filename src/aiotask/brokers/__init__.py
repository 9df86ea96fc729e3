"""Brokers, one module or folder each."""
