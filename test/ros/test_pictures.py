# SPDX-License-Identifier: Apache-2.0
"""Masks and debug pictures: what they show, whose header they carry, when they are made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from delegating_tracker import DelegatingTracker
from sensor_msgs.msg import Image

from tracker_ros.drawing.overlay import colour_map_score, draw_token_mask
from tracker_ros.nodes import publishers


def pixels_of(message: Image) -> np.ndarray:
    """(H, W, 3) of rgb8 or (H, W) of mono8."""
    shape = (message.height, message.width, -1)
    return np.frombuffer(message.data, np.uint8).reshape(shape).squeeze()


def test_debug_pictures_come_with_the_images_headers(probe):
    pictures: list[Image] = []
    scores: list[Image] = []
    listeners = [
        probe.listen(Image, "debug/image", pictures),
        probe.listen(Image, "debug/score", scores),
    ]
    assert probe.set(debug_rate=0, debug_scale=0.5) == [(True, ""), (True, "")]
    probe.until(
        lambda: all(
            probe.node.count_publishers(f"/shared/debug/{name}") for name in ("image", "score")
        ),
        "publishers of debug pictures",
    )
    probe.start_following()
    probe.until(lambda: probe.show() and pictures and scores, "debug pictures")
    status = probe.show()
    probe.until(lambda: pictures[-1].header == status.header, "the picture of this frame")
    picture = pictures[-1]
    assert (picture.width, picture.height, picture.encoding) == (160, 120, "rgb8")
    assert len(picture.data) == picture.height * picture.step
    score = probe.until(
        lambda: next((s for s in scores if s.header == status.header), None), "the score"
    )
    assert score.encoding == "rgb8"
    assert pixels_of(score).std() > 0
    assert probe.set(debug_score_encoding="32FC1", debug_rate=10.0, debug_scale=1.0)[0][0]
    raw = probe.until(
        lambda: (
            probe.show() and next((s for s in reversed(scores) if s.encoding == "32FC1"), None)
        ),
        "a raw score",
    )
    values = np.frombuffer(raw.data, np.float32).reshape(raw.height, raw.width)
    assert raw.step == raw.width * 4
    assert 0.0 <= values.min() < values.max() <= 1.0
    for listener in listeners:
        probe.node.destroy_subscription(listener)


def test_pictures_are_drawn_only_while_somebody_listens(local, monkeypatch):
    drawn = []
    for name in ("draw_targets", "colour_map_score"):
        real = getattr(publishers, name)

        def counted(*args, name=name, real=real, **options):
            drawn.append(name)
            return real(*args, **options)

        monkeypatch.setattr(publishers, name, counted)
    _, probe = local
    assert probe.set(debug_rate=0.0)[0][0]
    probe.start_following()
    probe.follow(4)
    assert drawn == []
    heard: list[Image] = []
    listener = probe.listen(Image, "debug/image", heard)
    probe.until(lambda: probe.show() and heard, "a debug image")
    assert set(drawn) == {"draw_targets"}
    probe.node.destroy_subscription(listener)

    def no_longer_drawn():
        before = len(drawn)
        probe.show()
        return len(drawn) == before

    probe.until(no_longer_drawn, "the end of drawing")
    heard_scores: list[Image] = []
    listener = probe.listen(Image, "debug/score", heard_scores)
    probe.until(lambda: probe.show() and heard_scores, "a score")
    assert "colour_map_score" in drawn
    probe.node.destroy_subscription(listener)


class Masker(DelegatingTracker):
    """Does what the inner one does, with its box as mask; counts the masks that are looked at."""

    def track(self, image):
        result = super().track(image)
        x, y, w, h = (int(v) for v in result.box)
        mask = np.zeros(image.shape[:2], bool)
        mask[y : y + h, x : x + w] = True
        return replace(result, mask=mask)


def test_a_mask_is_published_and_drawn_while_somebody_listens(local, monkeypatch):
    packed = []
    real = publishers.image_from_array

    def counted(array, header):
        packed.append(array.ndim)
        return real(array, header)

    monkeypatch.setattr(publishers, "image_from_array", counted)
    stage, probe = local
    stage.inner = Masker(stage.inner)
    probe.start_following()
    probe.follow(2)
    assert packed == [], "nobody listens"
    masks: list[Image] = []
    pictures: list[Image] = []
    listeners = [probe.listen(Image, "target_mask", masks)]
    probe.until(lambda: probe.show() and masks, "a mask")
    assert set(packed) == {2}
    status = probe.show()
    probe.until(lambda: masks[-1].header == status.header, "the mask of this frame")
    message, box = masks[-1], probe.target_of(status.header).bbox
    assert (message.encoding, message.width, message.height) == ("mono8", 320, 240)
    mask = pixels_of(message)
    assert set(np.unique(mask)) == {0, 255}
    assert (mask > 0).sum() == int(box.size_x) * int(box.size_y)

    listeners.append(probe.listen(Image, "debug/image", pictures))
    assert probe.set(debug_rate=0.0)[0][0]
    probe.until(lambda: probe.show() and pictures, "a picture")
    status = probe.show()
    both = [masks, pictures]
    probe.until(lambda: all(m[-1].header == status.header for m in both), "both of this frame")
    plain = probe.scene.image(probe.place).astype(int)
    inside = np.zeros((240, 320), bool)
    rows, columns = np.nonzero(pixels_of(masks[-1]))
    inside[rows.min() + 8 : rows.max() - 8, columns.min() + 8 : columns.max() - 8] = True
    change = pixels_of(pictures[-1])[inside].astype(int) - plain[inside]
    assert np.abs(change).mean() > 10, "the target is tinted"
    for listener in listeners:
        probe.node.destroy_subscription(listener)


class Masking(DelegatingTracker):
    """Does what the inner one does; its token mask is the left half, when asked for."""

    mask = np.zeros((2, 4, 4), bool)
    mask[:, :, :2] = True

    def track(self, image):
        mask = self.mask if self.explain else None
        self.result = replace(super().track(image), token_mask=mask)
        return self.result


def test_the_token_mask_is_drawn_over_the_score_when_asked_for(local):
    stage, probe = local
    stage.inner = masking = Masking(stage.inner)
    scores: list[Image] = []
    listener = probe.listen(Image, "debug/score", scores)
    assert probe.set(debug_rate=0.0, debug_score_overlay="token_mask") == [(True, "")] * 2
    probe.start_following()
    probe.until(lambda: probe.show() and scores, "a score")
    status = probe.show()
    probe.until(lambda: scores[-1].header == status.header, "the score of this frame")
    plain = colour_map_score(masking.result.score_map, (256, 256))
    wanted = draw_token_mask(plain, masking.mask, (0.0, 0.0, 256.0, 256.0))
    assert np.array_equal(pixels_of(scores[-1]), wanted)
    assert not any("debug_score_overlay" in log.msg for log in probe.logs)
    assert probe.set(debug_score_overlay="none")[0][0]
    status = probe.show()
    probe.until(lambda: scores[-1].header == status.header, "the score of this frame")
    plain = colour_map_score(masking.result.score_map, (256, 256))
    assert np.array_equal(pixels_of(scores[-1]), plain)
    probe.node.destroy_subscription(listener)


def test_a_token_mask_that_a_model_lacks_is_logged_once(local):
    _, probe = local
    scores: list[Image] = []
    listener = probe.listen(Image, "debug/score", scores)
    assert probe.set(debug_rate=0.0, debug_score_overlay="token_mask") == [(True, "")] * 2
    probe.start_following()
    probe.until(lambda: probe.show() and len(scores) > 2, "some scores")
    told = [log.msg for log in probe.logs if "debug_score_overlay" in log.msg]
    assert len(told) == 1
    assert "ostrack_tiny" in told[0]
    assert "GRM" in told[0]
    probe.node.destroy_subscription(listener)
