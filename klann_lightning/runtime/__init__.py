"""What runs a model without Python, and the schema of what it reads."""
