"""LFI-CAM and the attention branch network around a ResNet of three narrow stages."""

from toys import CLASSES
from torchvision.models.resnet import BasicBlock

from xai_repro.models.attention import ABN, LFICAM
from xai_repro.models.backbones import small_resnet


def lfi():
    return LFICAM(small_resnet(BasicBlock, 1, CLASSES, planes=(4, 5, 6)))


def abn():
    return ABN(small_resnet(BasicBlock, 1, CLASSES, planes=(4, 5, 6)))
