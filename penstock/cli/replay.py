"""`penstock replay`: tries rejected rows again."""

from __future__ import annotations

import click

from penstock.cli.command import complete_asset, shared
from penstock.cli.screen import Face


@click.command()
@click.argument("asset", shell_complete=complete_asset)
@shared
def replay(face: Face, asset: str) -> None:
    """Try the rejected rows of an asset again.

    Those that pass today's checks land, once.

    Change the checks of the asset first; `penstock show ASSET --rejected` tells what was rejected and why.
    """
    with face.open() as project:
        report = project.replay(asset)
    if face.json:
        face.document("replay", **report.record())
        return
    from penstock.project.figures import count, of

    if not report.tried:
        face.line(f"{asset}: no rejected rows")
        return
    face.line(f"{asset}: {of(report.tried, 'rejected row')} tried, {count(report.landed)} landed", "bold")
    for check, number in report.still_rejected.items():
        face.line(f"    still rejected  {count(number):>10}  {check}", "yellow")
