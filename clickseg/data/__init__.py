"""Data for training: the patch store, samples and batches, and prompts as the model sees them."""
