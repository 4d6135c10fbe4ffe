"""Training on several devices and on several hosts, by `tf.distribute` below Keras's `fit`.

Nothing is imported here: `python -m training.launch` starts without TensorFlow.
"""
