"""What training gains: one folder a study, its report and its figure beside it."""
