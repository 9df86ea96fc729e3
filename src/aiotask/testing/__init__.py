"""What holds brokers and result backends to their contracts, for their authors and for our own tests."""
