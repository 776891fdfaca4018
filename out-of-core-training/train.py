"""Train ResNet-50, DenseNet-121, Pix2PixHD or DeepLabv3+, with more memory than the GPU has if need be (2010.14109)."""
from out_of_core_training.__main__ import launch

if __name__ == "__main__":
    launch("train")
