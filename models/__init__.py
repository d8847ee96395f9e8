"""What is learned, and the plan that both sides read."""
