"""How much every training image raises or lowers the validation loss: influence scores."""
from data_cleansing.influence.scores import (
    EPOCHS,
    HESSIANS,
    METHODS,
    PUBLISHED,
    Method,
    influence_scores,
    resolve,
)

__all__ = [
    "EPOCHS",
    "HESSIANS",
    "METHODS",
    "Method",
    "PUBLISHED",
    "influence_scores",
    "resolve",
]
