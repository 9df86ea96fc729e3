"""Result backends, one module or folder each."""
