"""What is asked of the base optimizer and of the training framework."""
