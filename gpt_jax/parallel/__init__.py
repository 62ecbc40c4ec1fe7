"""Where things run: platform settings, the mesh of devices, and what is split over it."""
