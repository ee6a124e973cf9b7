"""AdvAs on WGAN-GP, the first experiment of its paper."""
