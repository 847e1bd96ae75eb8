"""Images that a network takes for its training data: to calibrate with where there are few photographs, or none.

Its batch norms keep the mean and deviation that each channel had in training. Noise is moved by gradients until a batch
of it has these at every one of them; where the network gives a score a class, each image is also drawn towards a class
(arXiv:2001.00281, arXiv:1912.08795).
"""

import copy
import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from bitladder.errors import UserError
from bitladder.paths import TASK
from bitladder.running.resume import fingerprint, load_state, save_state, workspace

__all__ = ["synthesize"]

BATCH = 32  # images at most, whose statistics are taken together

STEPS = 60

RATE = 0.08  # of Adam, on images in [-1, 1]

CLASS, SMOOTH = 0.01, 0.05  # weights of the class and of the differences between neighbouring pixels in the loss

Limit = float | Sequence[float]


def synthesize(
    model: nn.Module, count: int, shape: tuple[int, int, int], seed: int, low: Limit = -1.0, high: Limit = 1.0
) -> Tensor:
    """Make images for a trained network with batch norms.

    Each batch that is done is kept in build/work until network, arguments or code change: a killed run goes on from the
    last one, and `dvc repro` takes what `bitladder check --task` has made. EfficientNet-Lite0 takes 4 s an image on 2
    cores, and 4 GB.

    Args:
        model: takes images, N x channels x height x width; is left as it is.
        count: of images. Statistics are of 32 at most, in batches as even as can be; those of a few are poor.
        shape: of one image.
        seed: of the noise and the classes.
        low: the least value of a pixel, or of each channel's.
        high: the largest.

    Returns: count x shape.

    Raises UserError where the network has no batch norm, or its batch norms have seen no data, or a count is none.

    """
    if type(count) is not int or count < 1:
        raise UserError(f"task: the number of images to synthesize must be a whole number, at least 1, not {count!r}")
    network = copy.deepcopy(model).cpu().eval().requires_grad_(False)
    norms = _trained_norms(network)
    distances: list[Tensor] = []
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, inputs: distances.append(_distance(module, inputs[0])))
    limits = [torch.as_tensor(limit, dtype=torch.float32).reshape(-1, 1, 1) for limit in (low, high)]

    def seen(images: Tensor) -> Tensor:
        return (limits[0] + limits[1] + (limits[1] - limits[0]) * images) / 2

    layout = _fastest(network, seen(torch.zeros(2, *shape)))
    network = network.to(memory_format=layout)
    parts = math.ceil(count / BATCH)
    sizes = [len(part) for part in torch.arange(count).tensor_split(parts)]
    with (
        workspace(f"synthetic-{count}-{seed}", _key(network, count, shape, seed, low, high), keep=True) as work,
        tqdm(total=parts * STEPS, desc="synthesize", unit="step", leave=False) as bar,
    ):
        batches = []
        for index, size in enumerate(sizes):
            path = work / f"{index}.pt"
            if (kept := load_state(path)) is None:
                own = hashlib.sha256(f"{seed}:{index}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(own[:7]))
                images = _noise(size, shape, generator).clamp(-1, 1).contiguous(memory_format=layout)
                kept = {"images": seen(_moved(lambda x: network(seen(x)), images, distances, generator, bar))}
                if not kept["images"].isfinite().all():
                    raise UserError("task: the network's outputs on synthesized images are not finite numbers")
                save_state(path, kept)
            else:
                bar.update(STEPS)
            batches.append(kept["images"])
    return torch.cat(batches)


def _trained_norms(network: nn.Module) -> list[Any]:
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    norms: list[Any] = [
        one
        for one in network.modules()
        if isinstance(one, kinds) and one.track_running_stats and one.running_var is not None
    ]
    if not norms:
        raise UserError("task: images are synthesized from batch norms' statistics, and this network has none")
    if not any(norm.running_mean.any() for norm in norms):
        raise UserError("task: images are synthesized from what batch norms saw in training; these saw none yet")
    return norms


def _fastest(network: nn.Module, sample: Tensor) -> torch.memory_format:
    """Give the layout that convolutions are fastest in on a CPU, or the usual one where the network takes no other."""
    try:
        tried = copy.deepcopy(network).to(memory_format=torch.channels_last)
        tried(sample.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def _key(network: nn.Module, *arguments: Any) -> str:
    digest = hashlib.sha256(repr(network).encode())
    for name, values in network.state_dict().items():
        if isinstance(values, Tensor):
            digest.update(f"{name}:{values.dtype}:{tuple(values.shape)}".encode())
            digest.update(values.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    described = tuple(path for path in (TASK,) if path.is_file())
    return fingerprint(digest.hexdigest(), *arguments, torch.get_num_threads(), files=described)


def _moved(
    run: Callable[[Tensor], Any], images: Tensor, distances: list[Tensor], generator: torch.Generator, bar: Any
) -> Tensor:
    """Give images in [-1, 1] after STEPS of gradient descent; a call of `run` adds to `distances`."""
    images = images.detach().requires_grad_()
    classes: Tensor | None = None
    optimizer = torch.optim.Adam([images], lr=RATE, betas=(0.5, 0.9))
    reach = images.shape[-1] // 14
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (0.5 + 0.5 * math.cos(math.pi * step / STEPS))
        distances.clear()
        # Moved and mirrored anew in each step, or what is made fits the strides of one position
        shifts = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        shifted = torch.roll(images, shifts, (2, 3))
        scores = run(shifted.flip(3) if step % 2 else shifted)
        loss = torch.stack(distances).mean() + SMOOTH * _roughness(images)
        if isinstance(scores, Tensor) and scores.ndim == 2:
            if classes is None:
                classes = torch.randint(scores.shape[1], (len(images),), generator=generator)
            loss = loss + CLASS * functional.cross_entropy(scores, classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            images.clamp_(-1, 1)
        bar.update()
    return images.detach().contiguous()


def _distance(norm: Any, x: Tensor) -> Tensor:
    """Give how far a batch norm's inputs are from those of training: in means and deviations, by channel."""
    over = [dimension for dimension in range(x.ndim) if dimension != 1]
    deviation = (norm.running_var + norm.eps).sqrt()
    variances, means = torch.var_mean(x, over, correction=0)
    shifts = (means - norm.running_mean) / deviation
    spreads = (variances + norm.eps).sqrt() / deviation - 1
    return shifts.square().mean() + spreads.square().mean()


def _roughness(images: Tensor) -> Tensor:
    return (images.diff(dim=2).square().sum() + images.diff(dim=3).square().sum()) / images.numel()


def _noise(count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Give grey-coloured noise whose power falls with frequency as that of photographs does, each of a brightness."""
    channels, height, width = shape
    frequency = torch.hypot(torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None])
    drawn = torch.randn(count, channels, *frequency.shape, 2, generator=generator)
    spectrum = torch.view_as_complex(drawn) / frequency.clamp_min(1 / max(height, width))
    colours = torch.fft.irfft2(spectrum, (height, width))
    grey = colours.mean(1, keepdim=True)
    images = 0.8 * channels**0.5 * grey + 0.4 * (colours - grey)
    brightness = 0.2 * torch.randn(count, 1, 1, 1, generator=generator)
    return 0.5 * images / images.std((1, 2, 3), keepdim=True) + brightness
