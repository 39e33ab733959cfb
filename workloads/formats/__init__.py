"""Files: strict JSON, mappings."""
