"""The data of files: the lane, the encoders' threads, and requests of several steps or that wait for room."""
