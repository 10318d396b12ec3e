"""Draws the README's pictures from a running Ebbtide: `python docs/pictures.py` beside `make run`."""

from pathlib import Path

import matplotlib

from service.client import Client
from workers.jobs import GenerateResult

HERE = Path(__file__).parent
GRIDS = {
    "sngan-prior": ("mnist-sngan", "prior"),
    "sngan-ddls": ("mnist-sngan", "ddls"),
    "lebm-prior": ("mnist-lebm", "prior"),
    "lebm-latent-ebm": ("mnist-lebm", "latent-ebm"),
}


def main() -> None:
    """Grids before and after MCMC from the same first latents, and the energies of single chains on their way."""
    with Client() as ebbtide:
        for name, (model, sampler) in GRIDS.items():
            ebbtide.generate(model, sampler=sampler, num_images=36, seed=7).save(HERE / f"{name}.png")
        draw_traces(ebbtide, HERE / "energy-trace.png")


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


if __name__ == "__main__":
    main()
