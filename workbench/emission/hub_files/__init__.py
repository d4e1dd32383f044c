"""Files that a Hugging Face kernel brings beside its module, copied as they are."""
