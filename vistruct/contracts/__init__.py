"""What crosses a border between rooms: the dataclasses and protocols everything else is written against.

files --formats--> Record --dataset--> Sample --collator--> Batch --task--> StepOutput --engine--> step
                                                            Batch --task.predict--> Prediction --metric--> numbers
"""

from vistruct.contracts.parts import (
    Backbone,
    DataInfo,
    Dataset,
    FeatureSpec,
    Metric,
    MetricConfig,
    Task,
    TokenBackbone,
)
from vistruct.contracts.predictions import (
    AnswerPrediction,
    BoxPrediction,
    ClassPrediction,
    MapPrediction,
    MaskPatch,
    Prediction,
)
from vistruct.contracts.step import (
    Batch,
    Measure,
    Measurer,
    Ratio,
    StepOutput,
)
from vistruct.contracts.truth import (
    IGNORED,
    RGB,
    Pixels,
    Record,
    Role,
    Sample,
    Turn,
)
