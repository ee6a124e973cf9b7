"""The theorems behind the GAN methods, drawn from the losses of `gradweight.gan`."""
