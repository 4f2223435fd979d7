"""Predict memory, speed, hours and cost of training from a model's config.json, before anything is downloaded or paid for.

shape → devices → work (what one step holds and computes) → memory and speed → outlook (the table, and what is refused).
"""
