"""Sources, splits, the tf.data pipeline and augmentation. Knows nothing of models."""
