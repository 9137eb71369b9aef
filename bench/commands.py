"""`isthmus bench ...`: measure, compare, report."""

from __future__ import annotations

from bench.latency.command import latency
from bench.rate.command import rate
from bench.rooms.command import rooms
from bench.throughput.command import cloud
from shared.process.commands import CommandTable
from train.commands.commands import OneLine

app = CommandTable(cls=OneLine, help="Measure against targets and peers.", no_args_is_help=True)


@app.callback()
def _group() -> None: ...


app.command()(rooms)
app.command()(rate)
app.command()(latency)
app.command()(cloud)
