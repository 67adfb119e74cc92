"""Simulated effects and fixtures that plugin authors use in their own tests."""
