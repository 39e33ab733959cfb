"""Plan where the tensors of an ML program live on an accelerator, and when they move."""
