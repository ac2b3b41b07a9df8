"""What crosses a border between rooms: the dataclasses and protocols everything else is written against.

files --formats--> Record --dataset--> Sample --collator--> Batch --task--> StepOutput --engine--> step
                                                            Batch --task.predict--> Prediction --metric--> numbers
"""

from vistruct.contracts.boxes import BoxTarget, Detections, HeadLoss, Queries, Shown
from vistruct.contracts.data import DataInfo, Dataset
from vistruct.contracts.dense import DenseBoxHead, Selection
from vistruct.contracts.objects import (
    NO_OBJECTS,
    Column,
    Objects,
    cat,
)
from vistruct.contracts.parts import (
    Backbone,
    BackboneTraits,
    BoxHead,
    CaptionHead,
    ClassLayer,
    Described,
    FeatureSpec,
    Head,
    HeadTraits,
    LearningHead,
    MapTask,
    Metric,
    Neck,
    NeckTraits,
    QueryDecoder,
    State,
    Task,
    TaskTraits,
    TokenBackbone,
    Tokens,
    UnplacedBackbone,
    Watching,
    Weights,
)
from vistruct.contracts.phases import Phase, Phased
from vistruct.contracts.predictions import (
    AnswerPrediction,
    BoxPrediction,
    CaptionPrediction,
    ClassPrediction,
    Embedded,
    Grounded,
    GroundedPrediction,
    MapPrediction,
    MaskPatch,
    Panel,
    PanopticPrediction,
    Phrase,
    Prediction,
    Restored,
    Segment,
    VolumePrediction,
)
from vistruct.contracts.step import (
    Batch,
    Costs,
    JointBatch,
    Measure,
    Measurer,
    Ratio,
    StepOutput,
    StreamBatch,
    named_term,
)
from vistruct.contracts.teachers import OutsideTeacher
from vistruct.contracts.truth import (
    IGNORED,
    IMAGE_MARK,
    OBJECT_MARK,
    PHRASE_CLOSE,
    PHRASE_OPEN,
    POINT_MARKS,
    REGION_MARK,
    RGB,
    Form,
    Pixels,
    Prompt,
    Record,
    Region,
    Role,
    Sample,
    Turn,
    Window,
)
