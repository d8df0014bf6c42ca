"""Samplers that complete images with an unconditional diffusion model.

Each sampler is a pure function of a denoiser, the network's calls, a measurement (the
known pixels and their mask) and a source of noise; its whole trajectory is one
`lax.scan`. docs/samplers.md compares them. RePaint's walk is in `..resampling`.
"""
