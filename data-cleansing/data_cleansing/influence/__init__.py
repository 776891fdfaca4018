"""How much every training image raises or lowers the validation loss: influence scores."""
from data_cleansing.influence.methods import METHODS, Method, choose
from data_cleansing.influence.scores import influence_scores

__all__ = ["METHODS", "Method", "choose", "influence_scores"]
