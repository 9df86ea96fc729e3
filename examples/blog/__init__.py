"""A blog whose comments are checked for spam in the background. README.md says how to run it, and where to read on."""
