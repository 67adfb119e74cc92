"""Detect, plan, apply, verify: the change is data first, journalled second, made last."""
