"""prn: better masks from an existing segmentation model's logit maps.

The modules, in the order in which data passes through them:

- `rasters`: files to arrays and back, with what the numbers mean, what is valid and where it lies on earth
- `tiles`: maps cut into windows, in integers
- `thresholds`, `pseudolabels`: the best threshold of every patch, and what it makes of a map
- `training`: networks, losses and the loop (the only place that imports torch)
- `weights`: shipped and trained weights: found, verified, described
- `refiners`: one file a method, run by onnxruntime
- `strength`, `drift`: how much of a correction to apply; how far new logits lie from those of training
- `blend`, `refine`: windows put back together; logits to a mask
- `metrics`, `score`: masks against labels, with intervals
- `classes`, `multiclass`: a softmax as binary maps and back; every class refined and scored
- `saliency`: soft maps against labels
- `report`: figures and small pictures to a page for the browser
- `commands`: the command line
"""

import os

# Before onnxruntime is imported: it would keep an identifier and a database in the home folder, and report each session
# to its maker over the network. Nothing of a user's work leaves the machine unless the user says so.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.1.0"
