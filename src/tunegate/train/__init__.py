"""Supervised fine-tuning (sft), preference optimisation (prefer) and what the two share (model, examples, progress)."""
