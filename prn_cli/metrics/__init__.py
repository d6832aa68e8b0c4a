"""Masks and probability maps against labels: counts first, ratios last.

Each family has a function from an image to an array of counts, and functions from counts to figures. Counts add up:
those of one image give its own figure, the sum over many images gives the pooled one.

- `regions`: true and false positives and negatives; IoU, F1, precision, recall, accuracy
- `boundaries`: boundary IoU, mean boundary accuracy (mBA), relaxed precision and recall
- `calibration`: mean absolute error and expected calibration error of soft maps
- `saliency`: the measures of salient object detection: S-, E-, F- and weighted F-measure
- `classes`: mIoU and the IoU of each class
- `intervals`: the bootstrap over images
- `score`: region, boundary and calibration metrics of masks; from images to the figures of a set, with intervals
- `bitmaps`: dilation of large masks, 64 pixels at a time
"""
