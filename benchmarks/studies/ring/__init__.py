"""GANs on a ring of eight Gaussians."""
