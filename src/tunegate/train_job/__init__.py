"""Train on several nodes, or on nodes that may be taken away: as a Kubeflow Trainer TrainJob (v1alpha1; Trainer 2.3 or newer).

The component creates the job, relays the log of its first node, and deletes it. `run` says what happens when.

What the job's command must be. The runtime `torch-distributed` starts one pod a node and sets PET_NNODES, PET_NPROC_PER_NODE,
PET_NODE_RANK, PET_MASTER_ADDR and PET_MASTER_PORT, which torchrun reads; it starts nothing itself. torchrun ends with 1 whatever its
workers end with, so torchrun must not be the command: the command is an entry point that starts torchrun as its child, and ends with
the worker's exit code. On SIGTERM torchrun kills its workers after TORCH_ELASTIC_SHUTDOWN_TIMEOUT seconds, 30 unless set; the
manifest sets it from the grace period.

Exit codes of the job:
    2, 3   hopeless: the job is deleted at once, and BadInput or Refused raised
    75     saved, start me again (EX_TEMPFAIL of sysexits.h)
    else   left to the cluster's restarts; when these are used up, Unavailable

Who restarts. runtimePatches of v1alpha1 reach the pod, not the Job: neither podFailurePolicy nor backoffLimit can be patched.
With the runtimes as installed, pods restart on any failure (JobSet's default, OnFailure) up to the Job's backoffLimit (6). When the
TrainJob has failed by then and what ended it was an interruption (75, an eviction, a lost node, a signal), `run` creates it again, up
to `max_restarts` times.

When the component dies. A pod killed from outside leaves the job running, and the retried component finds it by its name. So does a
component that gave up because Kubernetes was silent. Ctrl-C deletes the job. A job that nobody watches ends after `timeout_hours`; a
TrainJob has no time to live after that, and `kubectl delete trainjob -l app.kubernetes.io/managed-by=tunegate` removes it.

What the component's service account needs (in the job's namespace):
    trainer.kubeflow.org  trainjobs  create, get, delete
    core                  pods       list
    core                  pods/log   get
    kueue.x-k8s.io        workloads  list   (optional: why a job waits in the queue)

Not covered: which nodes are cheap and may be taken away differs by cluster. Name them in a ClusterTrainingRuntime of your own
(`resources.runtime`) or in the Kueue ResourceFlavor behind `resources.queue`. A cloud may give less notice than the grace period
(AWS two minutes, Google and Azure half a minute), so the training has to save now and then anyway.
"""

from tunegate.train_job.api import connect, own_namespace
from tunegate.train_job.request import SECRET_KEYS, JobRequest, job_name, manifest
from tunegate.train_job.watch import run

__all__ = ["SECRET_KEYS", "JobRequest", "connect", "job_name", "manifest", "own_namespace", "run"]
