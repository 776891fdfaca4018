"""Train ResNet-18 or MobileNetV2 on ImageNet with learned bit widths (arXiv 1905.11452, section 4.2)."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("train_imagenet")
