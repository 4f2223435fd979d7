"""Turn instruction data into a served language model, and let a model through only when it is proven better."""

__version__ = "0.1.0"
