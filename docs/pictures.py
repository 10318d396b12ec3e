"""Draws the pictures of README and docs from a running Ebbtide: `python docs/pictures.py` beside `make run`."""

from pathlib import Path

import matplotlib
import torch

from models.checkpoints import Store
from models.device import read
from models.training.evaluation import loaded
from models.training.measurement import Subject
from service.client import Client
from workers.jobs import GenerateResult

HERE = Path(__file__).parent
GRIDS = {
    "sngan-prior": ("mnist-sngan", "prior"),
    "sngan-ddls": ("mnist-sngan", "ddls"),
    "lebm-prior": ("mnist-lebm", "prior"),
    "lebm-latent-ebm": ("mnist-lebm", "latent-ebm"),
}
PLANE = "gaussians-gan"


def main() -> None:
    """Grids before and after MCMC from the same first latents, and the energies of single chains on their way."""
    with Client() as ebbtide:
        for name, (model, sampler) in GRIDS.items():
            ebbtide.generate(model, sampler=sampler, num_images=36, seed=7).save(HERE / f"{name}.png")
        draw_traces(ebbtide, HERE / "energy-trace.png")
    draw_plane(HERE / "gaussians.png")


def draw_traces(ebbtide: Client, path: Path) -> None:
    """Four chains of each model, energy against step."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3), layout="constrained")
    for axis, (model, sampler, mcmc) in zip(
        axes,
        (("mnist-sngan", "ddls", {"kernel": "mala", "steps": 200}), ("mnist-lebm", "latent-ebm", {"kernel": "langevin", "steps": 200})),
        strict=True,
    ):
        job = ebbtide.wait(ebbtide.submit(model, sampler=sampler, mcmc=mcmc, num_images=4, seed=7).id)
        assert isinstance(job.result, GenerateResult)
        for chain in job.result.chains:
            count = len(chain.energy_trace)
            axis.plot([step * 200 / (count - 1) for step in range(count)], chain.energy_trace, linewidth=1)
        axis.set(title=f"{model}, {sampler}, {mcmc['kernel']}", xlabel="step", ylabel="energy (nats)")
    figure.savefig(path, dpi=110)


def draw_plane(path: Path) -> None:
    """5,000 points of a GAN on 25 Gaussians, before and after DDLS from the same latents."""
    matplotlib.use("agg")
    from matplotlib import pyplot

    store = Store(Path("data/checkpoints"))
    card = store.card(PLANE)
    subject = Subject.of(loaded(store, card, torch.device("cpu")), 5000)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 4.5), layout="constrained", sharex=True, sharey=True)
    for axis, sampler in zip(axes, ("prior", "ddls"), strict=True):
        x, y = read(subject.draws(sampler, card.samplers[sampler], 0).images).flatten(1).T
        axis.scatter(x, y, s=1, linewidths=0)
        axis.set(title=f"{PLANE}, {sampler}", aspect="equal", xlim=(-1, 1), ylim=(-1, 1), xticks=[], yticks=[])
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
