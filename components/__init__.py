"""One folder per step of the pipeline: the KFP signature, a thin wrapper around `tunegate.steps.run`.

kfp ships only the function's source, so a body uses nothing from module scope. Images are constants here because they are
arguments of the decorator; a run replaces them with digests through the pipeline's parameters.
"""

DATA_IMAGE = "tunegate/data:dev"
TRAIN_IMAGE = "tunegate/train:dev"
SERVE_IMAGE = "tunegate/serve:dev"
