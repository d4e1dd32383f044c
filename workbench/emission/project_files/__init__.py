"""Files that stand beside the module in an emitted project."""
