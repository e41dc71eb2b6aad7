"""The demonstration: real faces, planted motion, and an honest comparison of two models."""
