"""Scaling studies: what is trained at several sizes, and what follows from it for a larger one."""
