"""Verification and repair, with decoders that the data plane does not use."""
