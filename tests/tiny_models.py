"""Real checkpoints of real families, as small as they come and never trained: enough to hold the engine to its promises."""

import torch

from models.cards import ModelCard, Training
from models.checkpoints import Store
from models.families import family
from models.families.base import Size, published, spaces
from models.images import encode_png, grid, to_pixels

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8, classes=10)


def publish_tiny(store: Store, name_of_kind: str, name: str, seed: int = 0, **options: object) -> ModelCard:
    """The next version of a model, and its default, with freshly initialised networks, of a family with these options."""
    kind = family(name_of_kind, options)
    networks = published(kind, kind.begin(SIZE, seed))
    prior = spaces(kind, networks, SIZE)["prior"]
    card = ModelCard(
        name=name,
        version=1,
        family=name_of_kind,
        options=kind.model_dump(mode="json"),
        description="never trained",
        image_shape=SIZE.image_shape,
        latent_shape=prior.shape,
        classes=kind.classes(SIZE),
        networks=SIZE.model_dump(),
        samplers=kind.samplers(),
        default_sampler=kind.default_sampler,
        needs_calibration=kind.needs_calibration,
        training=Training(command="none", dataset="digits", steps=0, seed=seed, seconds=0, torch=torch.__version__),
        digest="0" * 64,
    )
    images = prior.decode(prior.start(torch.zeros(4, *prior.shape)))
    done = store.publish(card, dict(networks.state_dict()), encode_png(grid(to_pixels(images)), {}))
    store.promote(done.name, done.version)
    return done
