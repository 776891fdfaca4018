"""ResNet-50 and -101 (K. He et al., arXiv 1512.03385), with the stride in the 3x3 convolution as in torchvision."""
import nnabla as nn
import nnabla.functions as F
import nnabla.parametric_functions as PF

from out_of_core_training.networks.layers import Normal, conv_norm, scaled

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
EXPANSION = 4


def resnet(image: nn.Variable, num_classes: int, train: bool, depth: int = 50, width: float = 1.0) -> nn.Variable:
    """Classify images.

    Parameters
    ----------
    image
        (batch, 3, height, width).
    num_classes
    train
        Normalize by the statistics of the batch.
    depth
        50 or 101.
    width
        Factor of all numbers of channels.

    Returns
    -------
    nn.Variable (batch, num_classes)
    """
    h, _ = features(image, train, depth, width)
    h = F.average_pooling(h, h.shape[2:])    # (batch, channels, 1, 1)
    return PF.affine(h, num_classes, name="fc", w_init=Normal(0.01))


def features(image: nn.Variable, train: bool, depth: int = 50, width: float = 1.0, output_stride: int = 32
             ) -> tuple[nn.Variable, nn.Variable]:
    """Compute the maps before the classifier.

    Parameters
    ----------
    image, train, depth, width
        As for `resnet`.
    output_stride
        32 or 16: pixels of the image for each of the last maps; with 16 the last stage is dilated instead of
        subsampled.

    Returns
    -------
    last : nn.Variable (batch, 2048 width, image height / output_stride, likewise)
    low_level : nn.Variable (batch, 256 width, image height / 4, likewise)
        Maps of the first stage.
    """
    h = conv_norm(image, scaled(64, width), 7, "stem", train, stride=2)
    h = F.max_pooling(h, (3, 3), stride=(2, 2), pad=(1, 1))
    stages = []
    for stage, blocks in enumerate(BLOCKS[depth]):
        dilated = output_stride == 16 and stage == 3
        for block in range(blocks):
            stride = 2 if block == 0 and stage > 0 and not dilated else 1
            with nn.parameter_scope(f"stage{stage + 1}/block{block + 1}"):
                h = bottleneck(h, scaled(64 * 2 ** stage, width), train, stride, 2 if dilated and block else 1)
        stages.append(h)
    return h, stages[0]


def bottleneck(x: nn.Variable, channels: int, train: bool, stride: int, dilation: int) -> nn.Variable:
    """Add to `x` what three convolutions make of it; the sum has 4 `channels`.

    The last normalization starts at 0, so that a block starts as the identity (P. Goyal et al., arXiv 1706.02677).
    """
    outputs = channels * EXPANSION
    h = conv_norm(x, channels, 1, "conv1", train)
    h = conv_norm(h, channels, 3, "conv2", train, stride=stride, dilation=dilation)
    h = conv_norm(h, outputs, 1, "conv3", train, relu=False, gamma=0)
    if stride > 1 or x.shape[1] != outputs:
        x = conv_norm(x, outputs, 1, "shortcut", train, relu=False, stride=stride)
    return F.relu(h + x)
