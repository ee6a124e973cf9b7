"""GANs on small images."""
