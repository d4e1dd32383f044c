"""CUDA C++ templates, byte for byte as they were measured; EVIDENCE.json holds their digests."""
