"""SavedModel signatures, warm-up, publishing a version, the client, and TensorFlow Serving's config files."""

import startup

__getattr__ = startup.lazy(__name__, {"export_model": "serving.export:export_model"})
