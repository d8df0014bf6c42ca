"""The official names of guided-diffusion's networks (specification, section 5)."""

from picjax.models.painter import Pool
from picjax.official.mapping import CONV, LINEAR, Leaf, Site, Table

NORM = {"params/scale": Leaf(".weight"), "params/bias": Leaf(".bias")}
# A convolution of kernel 1 over tokens: (out, in, 1).
TOKENS = {"params/kernel": Leaf(".weight", (2, 1, 0)), "params/bias": Leaf(".bias")}


def _module(path: str, name: str) -> Table:
    """The sites of any one module of a block; a path has those of its kind."""
    return (
        Site(path, (name,), CONV),  # the first convolution of all
        Site(f"{path}/norm1", (f"{name}.in_layers.0",), NORM),
        Site(f"{path}/conv1", (f"{name}.in_layers.2",), CONV),
        Site(f"{path}/emb", (f"{name}.emb_layers.1",), LINEAR),
        Site(f"{path}/norm2", (f"{name}.out_layers.0",), NORM),
        Site(f"{path}/conv2", (f"{name}.out_layers.3",), CONV),
        Site(f"{path}/skip", (f"{name}.skip_connection",), CONV),
        Site(f"{path}/norm", (f"{name}.norm",), NORM),
        Site(f"{path}/qkv", (f"{name}.qkv",), TOKENS),
        Site(f"{path}/proj", (f"{name}.proj_out",), TOKENS),
    )


TORSO: Table = (
    Site("time1", ("time_embed.0",), LINEAR),
    Site("time2", ("time_embed.2",), LINEAR),
    *_module(r"in(\d+)_(\d)", r"input_blocks.\1.\2"),
    Site(r"in(\d+)_(\d)/conv", (r"input_blocks.\1.\2.op",), CONV),
    *_module(r"mid_(\d)", r"middle_block.\1"),
)
UNET: Table = (
    *TORSO,
    Site("", ("label_emb",), {"params/labels": Leaf(".weight")}),
    *_module(r"out(\d+)_(\d)", r"output_blocks.\1.\2"),
    Site(r"out(\d+)_(\d)/conv", (r"output_blocks.\1.\2.conv",), CONV),
    Site("norm", ("out.0",), NORM),
    Site("head", ("out.2",), CONV),
)
_POOLS: dict[Pool, Table] = {
    "attention": (
        Site("norm", ("out.0",), NORM),
        Site(
            "head",
            ("out.2",),
            {"params/positions": Leaf(".positional_embedding", (1, 0))},
        ),
        Site("head/qkv", ("out.2.qkv_proj",), TOKENS),
        Site("head/proj", ("out.2.c_proj",), TOKENS),
    ),
    "adaptive": (Site("norm", ("out.0",), NORM), Site("head", ("out.3",), CONV)),
    "spatial": (Site("hidden", ("out.0",), LINEAR), Site("head", ("out.2",), LINEAR)),
    "spatial_v2": (
        Site("hidden", ("out.0",), LINEAR),
        Site("hidden_norm", ("out.1",), NORM),
        Site("head", ("out.3",), LINEAR),
    ),
}


def classifier_table(pool: Pool) -> Table:
    """The official names of a classifier with this pool."""
    return (*TORSO, *_POOLS[pool])
