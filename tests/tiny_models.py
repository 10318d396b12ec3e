"""Real checkpoints of real families, as small as they come and never trained: enough to hold the engine to its promises."""

import torch

from models.cards import ModelCard, SamplerName, Training
from models.checkpoints import Store
from models.families import family
from models.families.base import Size, published
from models.images import encode_png, grid, to_pixels

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8)


def publish_tiny(store: Store, kind: str, name: str, seed: int = 0) -> ModelCard:
    """The next version of a model with freshly initialised networks."""
    networks = published(family(kind), family(kind).begin(SIZE, seed))
    samplers = family(kind).samplers()
    default: SamplerName = family(kind).default_sampler
    card = ModelCard(
        name=name,
        version=1,
        family=kind,
        description="never trained",
        image_shape=SIZE.image_shape,
        latent_shape=(SIZE.latent_size,),
        networks=SIZE.model_dump(),
        samplers=samplers,
        default_sampler=default,
        training=Training(command="none", dataset="digits", steps=0, seed=seed, seconds=0, torch=torch.__version__),
        digest="0" * 64,
    )
    with torch.no_grad():
        images = family(kind).decoder(networks)(torch.zeros(4, SIZE.latent_size))
    return store.publish(card, dict(networks.state_dict()), encode_png(grid(to_pixels(images)), {}))
