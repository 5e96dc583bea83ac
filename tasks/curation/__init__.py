"""Raw text to packed token shards: read, filter, deduplicate, gate, tokenize."""
