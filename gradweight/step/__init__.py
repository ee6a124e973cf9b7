"""One training step, from the losses of a micro-batch to the direction in ``.grad``."""
