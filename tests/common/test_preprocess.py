"""By what frames are standardised."""

import numpy as np
import pytest

from BC_training.common import preprocess
from gameplay_pipeline.plumbing.errors import UserError

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 5, 6, 3), dtype=np.uint8)


def fit(frames=FRAMES, normalize=True, color_order="RGB"):
    return preprocess.fit(frames, None, normalize_frames=normalize, color_order=color_order)


def test_the_mean_and_deviation_are_those_of_each_channel():
    fitted, scaled = fit(), FRAMES / 255
    assert np.allclose(fitted.frame_mean, scaled.mean(axis=(0, 1, 2)))
    assert np.allclose(fitted.frame_std, scaled.std(axis=(0, 1, 2)))
    assert fit(normalize=False).frame_mean == (0, 0, 0)


def test_imagenets_statistics_follow_the_colour_order():
    rgb, bgr = (fit(normalize="imagenet", color_order=order) for order in ("RGB", "BGR"))
    assert rgb.frame_mean == (0.485, 0.456, 0.406)
    assert rgb.frame_std == (0.229, 0.224, 0.225)
    assert (bgr.frame_mean[::-1], bgr.frame_std[::-1]) == (rgb.frame_mean, rgb.frame_std)
    with pytest.raises(UserError, match="imagenet has three channels, the frames 1"):
        fit(FRAMES[..., :1], normalize="imagenet")
