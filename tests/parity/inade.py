"""INADE with SPADE and CLADE: the checks of its reference files, by their kind."""

from functools import partial

import inade_data as data
import inade_layers as layers
import inade_losses as losses
import inade_networks as networks
import inade_training as training

CHECKS = {
    "INADE class/instance normalisation layer": partial(
        layers.check_norm, mode="inade"
    ),
    "SPADE normalisation (comparison variant)": partial(
        layers.check_norm, mode="spade"
    ),
    "CLADE normalisation (separate CLADE repository; not in the INADE code)": partial(
        layers.check_norm, mode="clade"
    ),
    "synchronised batch norm statistics": layers.check_sync_batchnorm,
    "spectrally normalised conv (one power iteration per train forward)": (
        layers.check_spectral_norm
    ),
    "instance-aware 3x3 convolution": layers.check_instance_conv,
    "inade residual block": partial(layers.check_block, mode="inade"),
    "spade residual block": partial(layers.check_block, mode="spade"),
    "clade residual block": partial(layers.check_block, mode="clade"),
    "generator": networks.check_generator,
    "instance-adaptive encoder": networks.check_instance_encoder,
    "SPADE image encoder (comparison variant)": networks.check_image_encoder,
    "exemplar-based control of one instance (demo path)": networks.check_exemplar,
    "multi-scale PatchGAN discriminator": networks.check_discriminator,
    "losses": losses.check_losses,
    "preprocess": data.check_preprocess,
    "instance re-identification": data.check_reidentify,
    "image/label/instance transforms": data.check_transforms,
    "image and label-map saving": data.check_output,
    "learning-rate schedule": losses.check_schedule,
    "one generator step then one discriminator step": training.check_train_step,
}
