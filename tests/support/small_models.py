"""A small form of every model."""

ENCODER = {
    "backbone": {"type": "conv", "stem": 2, "features": [8, 16], "depth": 0},
    "grid": [2, 2],
    "width": 32,
    "state_features": [16],
}
SMALL = {
    "pure_cnn": {"conv_stem": 2, "conv_features": [8, 16], "conv_depth": 1, "dense_features": [16]},
    "state_vision": {"encoder": {**ENCODER, "state": True}, "dense_features": [16]},
    "temporal_cnn": {
        "backbone": {"type": "conv", "stem": 2, "features": [8, 16], "depth": 0},
        "width": 8,
        "features": [16],
        "dense_features": [16],
    },
    "temporal_lstm": {"encoder": ENCODER, "ticks": 4, "stride": 2, "hidden": 16},
    "temporal_transformer": {
        "encoder": {**ENCODER, "past_actions": True},
        "ticks": 4,
        "layers": 1,
        "heads": 2,
        "chunk": 2,
    },
    "vla": {
        "backbone": {"type": "patch", "size": 8, "width": 32},
        "chunk": 3,
        "width": 32,
        "layers": 1,
        "heads": 2,
    },
}
