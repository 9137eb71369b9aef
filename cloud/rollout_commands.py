"""`isthmus cloud rollout`: which camera should run which bundle, asked of a running server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.errors import CloudUnreachableError, RemoteRejectedError, RequestError
from shared.process.cli import JsonOption
from shared.process.commands import CommandTable

if TYPE_CHECKING:
    from cloud.shelf.agreement import TaskAgreement
    from cloud.shelf.rollout import BundleFigures, RolloutState

app = CommandTable(no_args_is_help=True)


@app.command()
def rollout(
    bundle: Annotated[
        str | None,
        typer.Argument(help="folder, name or first digits of the fingerprint of a bundle that is served"),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="5%, all, or names of cameras with * and ?, comma-separated")
    ] = None,
    back: Annotated[bool, typer.Option("--back", help="cameras return to the bundle before")] = False,
    base: Annotated[
        str | None, typer.Option("--from", help="the bundle to return to; if absent, the one before")
    ] = None,
    errors_max: Annotated[
        float, typer.Option(min=0, max=1, help="returns by itself if so many more of its requests fail")
    ] = 0.05,
    requests_min: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="requests before that is judged")
    ] = 20,
    cloud: Annotated[
        str, typer.Option(envvar="ISTHMUS_CLOUD_URL", help="the server's HTTP, with http:// or https://")
    ] = "http://127.0.0.1:8080",
    token_file: Annotated[
        Path | None, typer.Option(help="a token of scope admin; ISTHMUS_CLOUD_TOKEN may hold it itself")
    ] = None,
    ca: Annotated[Path | None, typer.Option(help="PEM, who signs the server's certificate")] = None,
    as_json: JsonOption = False,
) -> None:
    """Roll a bundle out to cameras that ask (`isthmus edge serve --update-from`), or take it back; or show how it goes.

    Without a bundle and without --back it shows the figures of both bundles side by side.
    """
    from cloud.shelf.plan import parse_to
    from cloud.shelf.rollout import RolloutState

    if back and (bundle or to):
        raise RequestError("--back takes the rollout back that there is; give neither a bundle nor --to")
    if (bundle is None) != (to is None):
        raise RequestError("a rollout needs a bundle and --to")
    query: dict[str, Any] = {}
    if bundle is not None and to is not None:
        parse_to(to)
        query = {"bundle": bundle, "to": to, "errors_max": errors_max, "requests_min": requests_min}
        query |= {} if base is None else {"base": base}
    method, path = ("POST", "/admin/rollout") if bundle else ("GET", "/admin/rollout")
    if back:
        method, path = "POST", "/admin/rollout/back"
    state = RolloutState.model_validate_json(_call(cloud, method, path, query, token_file, ca))
    typer.echo(state.model_dump_json(indent=1) if as_json else _format(state))


def _call(
    cloud: str, method: str, path: str, query: dict[str, Any], token_file: Path | None, ca: Path | None
) -> bytes:
    """The answer's body. Raises RequestError, CloudUnreachableError or RemoteRejectedError."""
    import ssl

    import httpx

    token = os.environ.get("ISTHMUS_CLOUD_TOKEN", "")
    try:
        if token_file is not None:
            token = token_file.read_text("utf-8").strip()
        verify = ssl.create_default_context(cafile=str(ca)) if ca else True
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {token_file or ca}: {error}") from None
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with httpx.Client(base_url=cloud, headers=headers, verify=verify, timeout=30) as http:
            answer = http.request(method, path, params=query)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise RequestError("the server's URL begins with http:// or https://", setting="cloud") from None
    except (httpx.HTTPError, UnicodeEncodeError) as error:
        raise CloudUnreachableError(f"the server at {cloud} cannot be reached: {error}") from None
    if answer.status_code != 200:
        try:
            detail = str(answer.json()["detail"])
        except (ValueError, LookupError, TypeError):
            detail = f"{cloud} answers {answer.status_code}; is it an Isthmus cloud?"
        raise RemoteRejectedError("INVALID_ARGUMENT", detail)
    return answer.content


def _format(state: RolloutState) -> str:
    plan = state.plan
    if plan is None:
        return "nothing is being rolled out"
    to = ", ".join([*([f"{plan.share:.3g} of the cameras"] if plan.share else []), *plan.cameras])
    head = f"bundle {plan.bundle[:8]} to {to or 'nobody'} since {plan.started}"
    if plan.back:
        head = f"bundle {plan.bundle[:8]} was taken back: {plan.reason}"
    if not state.kept:
        head += " (a restart of the server forgets this: give it shelf.rollout)"
    rows: list[tuple[str, ...]] = [("bundle", "cameras", "requests", "errors", "bytes", "p50 ms", "p95 ms")]
    rows += [_row(figures) for figures in state.figures]
    lines = ["  ".join(cell.rjust(10) for cell in row) for row in rows]
    lines += [_alike(one) for one in state.agreement]
    return "\n".join([head, *lines, *(f"{camera}: {why}" for camera, why in state.troubles.items())])


def _alike(one: TaskAgreement) -> str:
    across, before = ("-" if mean is None else f"{mean:.1%}" for mean in (one.across, one.before))
    return (
        f"{one.task}: frames in a row agree by {across} across {one.switches} switches, by {before} within the bundle "
        f"before ({one.pairs})"
    )


def _row(figures: BundleFigures) -> tuple[str, ...]:
    errors = f"{figures.errors} ({figures.error_share:.1%})"
    numbers = (figures.bytes_mean, figures.p50_ms, figures.p95_ms)
    shown = ("-" if number is None else f"{number:.1f}" for number in numbers)
    return (figures.bundle, str(figures.cameras), str(figures.requests), errors, *shown)
