"""Groups of measurements of what the store costs: the engine, memory, cold blocks, growth, a start."""
