"""build-zero-image: an image of Zero, built from a git repository."""

from typing import Annotated

from prefect import flow
from pydantic import Field

from flows.outcome import NOWHERE, told
from tasks.clients.steps.build import build_image
from tasks.registry.source import BRANCH, REPO_URL, Source, check_source, check_tag

NO_ARGUMENTS: dict[str, str] = {}
Short = Annotated[str, Field(min_length=1, max_length=200)]
Path = Annotated[str, Field(max_length=300)]
Arguments = Annotated[dict[str, Annotated[str, Field(max_length=2000)]], Field(max_length=100)]


@flow(name="build-zero-image", flow_run_name="build {tag}", persist_result=False, result_storage=NOWHERE)
@told
async def build_zero_image(
    repo_url: Annotated[str, Field(min_length=1, max_length=300)] = REPO_URL,
    branch: Short = BRANCH,
    tag: Short = "zero-production:latest",
    build_args: Arguments = NO_ARGUMENTS,
    dockerfile: Path = "",
    context: Path = "",
) -> str:
    """Build an image of Zero from a git repository, on the fleet's Docker host.

    The code is fetched without its history, and the Dockerfile is the repository's own. Running clients keep their image.

    Args:
        repo_url: Address of the repository, http or https; one that is private needs git's credential helper on the worker.
        branch: Branch, tag or commit to build.
        tag: What the image is called; give this name as a client's image.
        build_args: Arguments of the build, like NEXT_PUBLIC_APP_URL. The image shows them, so no secrets.
        dockerfile: Path of the Dockerfile in the repository. Empty: the root's, or docker/app/Dockerfile.
        context: Folder of the repository to build in. Empty: its root.
    """
    source = Source(repo_url, branch, build_args, dockerfile, context)
    check_source(source, readable="what a run is given", branch_field="branch")
    check_tag(tag)
    return await build_image(source, tag)
