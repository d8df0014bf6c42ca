"""How well a segmentation network recognises the layouts of synthesised images.

    python -m picjax.evaluation.segmentation --labels=DIR --predictions=DIR

Predictions are label maps that any network made of the images: `<stem>_out_<i>.png` or
`<stem>.png` for the map `<stem>_label.png` or `<stem>.png`, of the same size. Prints
pixel accuracy and mean intersection over union (over the classes that occur), and
writes them to PREDICTIONS/segmentation.json. Pixels labelled 255 are left out.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from picjax import files
from picjax.cli import Parser, UserError, run
from picjax.complete_labels import LABEL, named_files, read_map
from picjax.data.maps import DONT_CARE, Map
from picjax.evaluation.folders import match

PATTERNS = ("{stem}_out_{i}", "{stem}")


def confusion(truth: Map, predicted: Map) -> Int[np.ndarray, "256 256"]:
    """Pixels by true and predicted class; unlabelled ones are left out."""
    known = truth != DONT_CARE
    pairs = 256 * truth[known].clip(0, 255) + predicted[known].clip(0, 255)
    return np.bincount(pairs, minlength=256**2).reshape(256, 256)


def scores(table: Int[np.ndarray, "256 256"]) -> dict[str, float]:
    """`accuracy` of pixels and `miou`, both 0 to 1."""
    hits = np.diag(table)
    union = table.sum(0) + table.sum(1) - hits
    occurs = union > 0
    return {
        "accuracy": float(hits.sum() / table.sum()),
        "miou": float((hits[occurs] / union[occurs]).mean()),
    }


def measure(labels: str, predictions: str) -> dict[str, float]:
    """The scores of two folders, with the number of maps.

    Raises:
      UserError: if a label map has no prediction, or sizes differ.
    """
    truths, root = named_files(labels, "--labels", LABEL), Path(predictions)
    made = list(named_files(predictions, "--predictions", "").values())
    found = max((match(made, root, p, truths) for p in PATTERNS), key=len)
    table, count = np.zeros((256, 256), np.int64), 0
    for stem, path in truths.items():
        if stem not in found:
            raise UserError(
                f"--predictions '{predictions}' holds no map of '{path}', such as "
                f"{stem}_out_0.png; add it"
            )
        truth = read_map(path)
        for prediction in found[stem].values():
            predicted = read_map(prediction)
            if predicted.shape != truth.shape:
                raise UserError(
                    f"'{prediction}' is {predicted.shape} but '{path}' is {truth.shape}; "
                    "resize it by nearest neighbour"
                )
            table += confusion(truth, predicted)
            count += 1
    return scores(table) | {"maps": count}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; see the module's docstring.

    Raises:
      UserError: if a map is missing or does not fit.
    """
    parser = Parser(
        prog="python -m picjax.evaluation.segmentation",
        description="Compares predicted label maps with those of the layouts.",
        epilog="example: python -m picjax.evaluation.segmentation --labels=maps "
        "--predictions=predicted",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--labels", required=True, metavar="DIR", help="true label maps"
    )
    parser.add_argument("--predictions", required=True, metavar="DIR", help="predicted")
    args = parser.parse_args(argv)
    numbers = measure(args.labels, args.predictions)
    path = Path(args.predictions) / "segmentation.json"
    files.write_text(path, json.dumps(numbers, indent=2) + "\n")
    print(
        f"{numbers['maps']} predictions: pixel accuracy {numbers['accuracy']:.4f}, "
        f"mean IoU {numbers['miou']:.4f}; written to {path}"
    )


if __name__ == "__main__":
    run(main)
