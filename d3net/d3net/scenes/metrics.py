"""How well labels agree with the truth: intersection over union, from a confusion matrix that grows image by image."""
import attrs
import numpy as np


def _counts(num_classes):
    return np.zeros((num_classes, num_classes), np.int64)


@attrs.frozen(eq=False)
class ConfusionMatrix:
    """Counts of pixels by true and by predicted class.

    Attributes
    ----------
    num_classes : int
    counts : int64 (num_classes, num_classes)
        Row: truth; column: prediction.
    """

    num_classes = attrs.field()
    counts = attrs.field(default=attrs.Factory(lambda self: _counts(self.num_classes), takes_self=True))

    def add(self, prediction, label):
        """Count the pixels of an image, or of several.

        Parameters
        ----------
        prediction : integers of any shape
            0..num_classes-1; any number where the label is no class.
        label : integers of the same shape
            A number outside of 0..num_classes-1, such as 255 or -1, is ignored.

        Returns
        -------
        ConfusionMatrix
            Itself.

        Raises
        ------
        ValueError
            The shapes differ, or a prediction that counts is no class.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction of shape {prediction.shape}, label of shape {label.shape}")
        known = (label >= 0) & (label < self.num_classes)
        truth, predicted = label[known].astype(np.intp), prediction[known].astype(np.intp)
        if predicted.size and not 0 <= predicted.min() <= predicted.max() < self.num_classes:
            raise ValueError(f"predicted classes {predicted.min()}..{predicted.max()} of {self.num_classes}")
        pairs = np.bincount(truth * self.num_classes + predicted, minlength=self.num_classes ** 2)
        self.counts[...] += pairs.reshape(self.counts.shape)
        return self

    def iou(self):
        """Intersection over union of each class, float64 (num_classes,); NaN for one that occurs nowhere."""
        hits = np.diag(self.counts)
        return _ratio(hits, self.counts.sum(0) + self.counts.sum(1) - hits)

    def mean_iou(self):
        """Mean of `iou` over the classes that occur in truth or prediction; NaN if nothing was counted."""
        return _mean(self.iou())

    def pixel_accuracy(self):
        """Share of the pixels that are right; NaN if nothing was counted."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def class_accuracy(self):
        """Share of the pixels of each class that are right, float64 (num_classes,); NaN for one without pixels."""
        return _ratio(np.diag(self.counts), self.counts.sum(1))

    def mean_class_accuracy(self):
        """Mean of `class_accuracy` over the classes that have pixels; NaN if nothing was counted."""
        return _mean(self.class_accuracy())


def _ratio(part, whole):
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values):
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
