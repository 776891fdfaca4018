"""Train a ResNet on CIFAR-10 that learns its own bit widths (arXiv 1905.11452, section 4.1)."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("train_resnet")
