"""A GPT trained under several recipes from the same weights on the same batches."""
