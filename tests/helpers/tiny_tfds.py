"""A prepared TFDS data set in ArrayRecord form, written without TensorFlow."""

import io
import json
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image

PACKAGE = "tensorflow_datasets.core.features"


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field of a protocol buffer."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out + bytes([value]))


def example(image: np.ndarray, label: int) -> bytes:
    """A serialised tf.train.Example whose `image` is a PNG."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    bytes_list = field(1, field(1, file.getvalue()))
    int64_list = field(3, field(1, varint(label)))
    features = {b"image": bytes_list, b"label": int64_list}
    entries = (field(1, name) + field(2, x) for name, x in features.items())
    return field(1, b"".join(field(1, entry) for entry in entries))


def write(folder: Path, splits: dict[str, list[np.ndarray]]) -> Path:
    """Writes a data set `tiny` of version 1.0.0 and returns its folder.

    Its images belong to three classes, in turn.
    """
    path = folder / "tiny" / "1.0.0"
    path.mkdir(parents=True)
    described = []
    for split, images in splits.items():
        name = f"tiny-{split}.array_record-00000-of-00001"
        writer = ArrayRecordWriter(str(path / name), "group_size:1")
        for i, image in enumerate(images):
            writer.write(example(image, i % 3))
        writer.close()
        described.append(
            {
                "name": split,
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "shardLengths": [str(len(images))],
                "numBytes": "1",
            }
        )
    info = {
        "name": "tiny",
        "version": "1.0.0",
        "fileFormat": "array_record",
        "splits": described,
    }
    (path / "dataset_info.json").write_text(json.dumps(info))
    image = {
        "pythonClassName": f"{PACKAGE}.image_feature.Image",
        "image": {
            "shape": {"dimensions": ["-1", "-1", "3"]},
            "dtype": "uint8",
            "encodingFormat": "png",
        },
    }
    label = {
        "pythonClassName": f"{PACKAGE}.class_label_feature.ClassLabel",
        "classLabel": {"numClasses": "3"},
    }
    features = {
        "pythonClassName": f"{PACKAGE}.features_dict.FeaturesDict",
        "featuresDict": {"features": {"image": image, "label": label}},
    }
    (path / "features.json").write_text(json.dumps(features))
    return path
