"""guided-diffusion, RePaint and Intelligent Painter: the checks of every kind."""

import diffusion_images
import diffusion_networks
import diffusion_process
import diffusion_sampling
import diffusion_training

CHECKS = {
    **diffusion_images.CHECKS,
    **diffusion_networks.CHECKS,
    **diffusion_process.CHECKS,
    **diffusion_sampling.CHECKS,
    **diffusion_training.CHECKS,
}
