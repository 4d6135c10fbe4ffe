"""SavedModel signatures, warm-up, publishing a version, the client, and TensorFlow Serving's config files."""
