"""`auprc`: area under the precision-recall curve of anomaly scores, for a model that never saw one of the classes (Zenati et al. 2018)."""

from torchmetrics.functional.classification import binary_average_precision

from models.metrics.base import Draws, Reference

COMPARED = "reconstructions"


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """The images of the class that was left out are the positives; none for models that saw every class."""
    if draws.explained is None or draws.explained.strange is None:
        return {}
    scores, strange = draws.explained.anomaly, draws.explained.strange
    # The library squashes scores outside [0, 1] by a sigmoid, which ties large ones: ranks keep their order.
    ranks = scores.double().unique(return_inverse=True)[1].double()
    return {"auprc": float(binary_average_precision(ranks / ranks.max().clamp(min=1), strange.long()))}
