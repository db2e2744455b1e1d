"""One block by itself: digest, features, encodings, and the stored format."""
