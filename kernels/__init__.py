"""Operations of the network, one folder each: `api` validates and dispatches, `reference` is plain PyTorch."""
