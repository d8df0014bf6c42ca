"""guided-diffusion, RePaint and Intelligent Painter: the check of every kind of file."""

from diffusion_images import check_composition, check_loading
from diffusion_networks import (
    check_attention,
    check_checkpoint_layout,
    check_embedding,
    check_resampling_and_norm,
    check_resblocks,
    check_unet,
)
from diffusion_process import check_classifier_guidance, check_schedules, check_steps
from diffusion_sampling import (
    check_toy_completions,
    check_unconditional_runs,
    check_unet_completion,
    check_visited_steps,
)
from diffusion_training import (
    check_losses,
    check_training_step,
    check_training_utilities,
)
from patterns import Patterns

# The first match counts.
CHECKS = Patterns(
    {
        "AttentionBlock": check_attention,
        "EncoderUNetModel .*guidance": check_classifier_guidance,
        "GaussianDiffusion single-step": check_steps,
        "Intelligent Painter composition": check_composition,
        "RePaint data path": check_loading,
        "ResBlock": check_resblocks,
        "UNetModel .*resampling run": check_unet_completion,
        "UNetModel .*loss": check_training_step,
        "UNetModel": check_unet,
        "Upsample / Downsample / GroupNorm32": check_resampling_and_norm,
        "beta schedules": check_schedules,
        "complete .*runs with a toy network": check_toy_completions,
        "full-size state_dict layouts": check_checkpoint_layout,
        "loss primitives": check_losses,
        "time lists": check_visited_steps,
        "timestep samplers": check_training_utilities,
        "timestep_embedding": check_embedding,
        "unconditional ancestral and DDIM": check_unconditional_runs,
    }
)
