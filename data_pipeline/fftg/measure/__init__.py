"""What is measured on a pair: registration, difference mask, artifacts."""
