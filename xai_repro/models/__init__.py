"""Networks: the embedded ones with their shipped weights, torchvision's, timm's and TorchRay's."""

from xai_repro.models.heads import train_head
from xai_repro.models.measure import evaluate_model, measure_trainings, recognised, said_of_trainings
from xai_repro.models.protocol import train_protocol
from xai_repro.models.train import train
from xai_repro.models.zoo import load_model, model_names, trainings, transform

__all__ = ["evaluate_model", "load_model", "measure_trainings", "model_names", "recognised", "said_of_trainings", "train", "train_head", "train_protocol", "trainings", "transform"]
