"""What mixing costs and what it gives: measured, kept as records, never asserted by tests."""
