"""The model: network, losses, checkpoints, and inference over a whole volume."""
