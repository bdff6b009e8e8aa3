"""The keys of mobilenet_v2's configs."""

from ._kinds import ConfigKeys, keys
from ._shared import MOBILENET

KEYS = ConfigKeys(
    fields={
        **MOBILENET,
        **keys(
            size="depth_divisible_by output_stride",
            ratio="expand_ratio",
            flag="first_layer_is_expansion finegrained_output",
            whole="semantic_loss_ignore_index",
        ),
    },
    # Arguments of slim's code.
    aliases={
        "divisible_by": "depth_divisible_by",
        "finegrain_classification_mode": "finegrained_output",
    },
)
