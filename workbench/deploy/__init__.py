"""Tuned configurations as serving engines read them: written, converted and checked."""
