"""Configuration, the trainer, heads, phases, callbacks and the run folder.

`training.train(training.resolved(training.TrainConfig(data="photos/")), "")` does what `train.py` does.
"""

import startup

__getattr__ = startup.lazy(
    __name__,
    {
        "Objective": "training.heads:Objective",
        "TrainConfig": "training.config:TrainConfig",
        "heads_of": "training.heads:heads_of",
        "resolved": "training.resolve:resolved",
        "train": "training.trainer:train",
    },
)
