"""Reading for days: shuffled over all shards, across epochs, ahead but not too far."""

import threading
import weakref
from itertools import islice

import numpy as np
import pytest
from helpers.configs import THREADS, shard_data
from PIL import Image

from picjax.data import pack, packing, pipeline

SIZE, BATCH, LENGTH = 16, 4, 40


def one_pass(monkeypatch):
    """Small sets, too, are shuffled pass by pass, as large ones are."""
    monkeypatch.setattr(pipeline, "MIN_SHUFFLED", 1)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Ten shards of four images; all pixels of an image are its number."""
    root = tmp_path_factory.mktemp("packed")
    for i in range(LENGTH):
        Image.new("RGB", (SIZE, SIZE), (i, i, i)).save(root / f"{i:02}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "SHARD", BATCH)
        pack.main([str(root), f"--out={root / 'out'}", f"--size={SIZE}"])
    return shard_data(root / "out", SIZE)


def numbers(config, count, selection=slice(None)):
    """The images of some batches."""
    batches = pipeline.train_batches(config, SIZE, BATCH, 0, selection)
    return np.stack([b["image"][:, 0, 0, 0] for b in islice(batches, count)])


def test_every_epoch_is_a_new_order_of_all_shards(packed, monkeypatch):
    one_pass(monkeypatch)
    epochs = numbers(packed, 20).reshape(2, LENGTH)
    assert (np.sort(epochs) == np.arange(LENGTH)).all()
    assert (epochs[0] != epochs[1]).any()
    for epoch in epochs:
        # Ten images of a window over two or three shards would be of those.
        assert all(len(set(part // BATCH)) >= 5 for part in epoch.reshape(4, 10))


def test_reading_of_shards_resumes_in_the_middle_of_an_epoch(packed, monkeypatch):
    one_pass(monkeypatch)
    whole = numbers(packed, 24)
    np.testing.assert_array_equal(numbers(packed, 17, slice(7, None)), whole[7:])


class Source:
    """Images of which each is read by `read`."""

    def __init__(self, read):
        self.read = read

    def __len__(self):
        return LENGTH


def batches_of(read, monkeypatch):
    one_pass(monkeypatch)
    monkeypatch.setattr(pipeline.sources, "training", lambda *_: Source(read))
    return pipeline.train_batches(shard_data("", SIZE), SIZE, BATCH, 0)


def test_the_next_epoch_is_read_before_the_last_image_of_one(monkeypatch):
    """The last image of an epoch waits for one of the next: a barrier would never end."""
    lock, seen, next_epoch = threading.Lock(), set(), threading.Event()
    in_time = []

    def read(index, rng):
        with lock:
            if index in seen:
                next_epoch.set()
            seen.add(index)
            is_last = len(seen) == LENGTH and not in_time
            if is_last:
                in_time.append(False)
        if is_last:
            in_time[0] = next_epoch.wait(60)
        return {"image": np.zeros((SIZE, SIZE, 3), np.uint8), "name": str(index)}

    batches = batches_of(read, monkeypatch)
    assert len(list(islice(batches, 12))) == 12
    assert in_time == [True]


def test_what_is_read_ahead_does_not_grow(monkeypatch):
    """Over five epochs: neither the images that are read early, nor those kept."""
    threads, images = THREADS, []
    ahead = (threads + pipeline.PREFETCHED + 1) * BATCH

    def read(index, rng):
        image = np.zeros((SIZE, SIZE, 3), np.uint8)
        images.append(weakref.ref(image))
        return {"image": image, "name": str(index)}

    batches = batches_of(read, monkeypatch)
    for taken in range(1, 51):
        next(batches)
        assert taken * BATCH <= len(images) <= taken * BATCH + ahead
        assert sum(image() is not None for image in images[-2 * ahead :]) <= ahead
    assert all(image() is None for image in images[: -2 * ahead])
