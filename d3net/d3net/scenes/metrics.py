"""How well predictions agree with labels: intersection over union, from a confusion matrix that grows by images."""
import attrs
import numpy as np


@attrs.frozen(eq=False)
class ConfusionMatrix:
    """Counts of pixels by the class of their label and by predicted class.

    Attributes
    ----------
    counts : int64 (num_classes, num_classes)
        Row: class of the label; column: prediction.
    """

    num_classes: int
    counts: np.ndarray = attrs.field(init=False)

    @counts.default
    def _zeros(self) -> np.ndarray:
        return np.zeros((self.num_classes, self.num_classes), np.int64)

    def add(self, prediction: np.ndarray, label: np.ndarray) -> "ConfusionMatrix":
        """Count the pixels of an image, or of several.

        Parameters
        ----------
        prediction : integers of any shape
            0..num_classes-1; any number where the label is no class.
        label : integers of the same shape
            A number outside of 0..num_classes-1, such as 255 or -1, is ignored.

        Returns
        -------
        Itself

        Raises
        ------
        ValueError
            The shapes differ, or a prediction that counts is no class.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction of shape {prediction.shape}, label of shape {label.shape}")
        known = (label >= 0) & (label < self.num_classes)
        expected, predicted = label[known].astype(np.intp), prediction[known].astype(np.intp)
        if predicted.size and not 0 <= predicted.min() <= predicted.max() < self.num_classes:
            raise ValueError(f"predicted classes {predicted.min()}..{predicted.max()} of {self.num_classes}")
        pairs = np.bincount(expected * self.num_classes + predicted, minlength=self.num_classes ** 2)
        self.counts[...] += pairs.reshape(self.counts.shape)
        return self

    def iou(self) -> np.ndarray:
        """Intersection over union of each class, float64 (num_classes,); NaN for one that occurs nowhere."""
        hits = np.diag(self.counts)
        return _ratio(hits, self.counts.sum(0) + self.counts.sum(1) - hits)

    def mean_iou(self) -> float:
        """Mean of `iou` over the classes that occur in labels or predictions; NaN if nothing was counted."""
        return _mean(self.iou())

    def pixel_accuracy(self) -> float:
        """Share of the pixels that are right; NaN if nothing was counted."""
        return float(_ratio(np.trace(self.counts), self.counts.sum()))

    def class_accuracy(self) -> np.ndarray:
        """Share of the pixels of each class that are right, float64 (num_classes,); NaN for one without pixels."""
        return _ratio(np.diag(self.counts), self.counts.sum(1))

    def mean_class_accuracy(self) -> float:
        """Mean of `class_accuracy` over the classes that have pixels; NaN if nothing was counted."""
        return _mean(self.class_accuracy())


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else float("nan")
