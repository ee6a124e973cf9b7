"""What is required of the base optimizer and of the training framework."""
