"""`isthmus bench ...`: measure, compare, report."""

from __future__ import annotations

from bench.archive.command import archive
from bench.devices.command import devices
from bench.latency.command import latency
from bench.photos.command import photos
from bench.privacy.command import privacy
from bench.rate.command import rate
from bench.replicas.command import replicas
from bench.rooms.command import rooms
from bench.scale.command import scale
from bench.sessions.command import sessions
from bench.throughput.command import cloud
from bench.video.command import video
from bench.wire.command import wire
from train.commands.options import TrainTable

app = TrainTable(help="Measure against targets and peers.", no_args_is_help=True)


app.command()(rooms)
app.command()(rate)
app.command()(latency)
app.command()(cloud)
app.command()(devices)
app.command()(wire)
app.command()(archive)
app.command()(scale)
app.command()(sessions)
app.command()(replicas)
app.command()(video)
app.command()(photos)
app.command()(privacy)
