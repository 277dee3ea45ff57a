"""What is measured against the clock."""
