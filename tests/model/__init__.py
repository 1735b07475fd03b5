"""A model of the protocol around the project's own pure code, and a breadth-first search over it."""
