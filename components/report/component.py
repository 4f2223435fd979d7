"""Write the run's report, whether the run ended well or not."""

from kfp import dsl
from kfp.dsl import HTML, Output, PipelineTaskFinalStatus

from components import DATA_IMAGE


@dsl.component(base_image=DATA_IMAGE, install_kfp_package=False)
def report(
    recipe: str,
    page: Output[HTML],
    status: PipelineTaskFinalStatus,
):
    """Write one HTML page about the run, as artifact, into the store and into MLflow, and close the run there."""
    from tunegate.plan import store_of
    from tunegate.report import publish

    page.metadata["state"] = status.state
    publish(store_of(recipe), page.path)
