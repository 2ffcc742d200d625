"""Networks: the embedded ones with their shipped weights, and torchvision's."""

from xai_repro.models.train import evaluate_model, train
from xai_repro.models.zoo import load_model, model_names, trainings, transform

__all__ = ["evaluate_model", "load_model", "model_names", "train", "trainings", "transform"]
