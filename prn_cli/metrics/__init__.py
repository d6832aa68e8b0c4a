"""Masks and probability maps against labels: counts first, ratios last.

Every family has a function from one image to *additive counts*, and functions from counts to ratios. The summed
counts of many images give the pooled figure; one image's counts give its own. All of it is NumPy on plain arrays.

- `regions`: true and false positives and negatives; IoU, F1, precision, recall, accuracy
- `boundaries`: boundary IoU, mean boundary accuracy (mBA), relaxed precision and recall
- `calibration`: mean absolute error and expected calibration error of soft maps
- `intervals`: the bootstrap over images
- `score`: all of them for masks of one class; records of images to the figures of a set, with intervals
- `saliency`: what the field of salient object detection measures soft maps by: S-, E-, F- and weighted F-measure
- `classes`: mIoU and the IoU of every class
- `distance`: the nearest foreground pixel of every pixel
- `bitmaps`: dilation of big masks, 64 pixels at a time
"""
