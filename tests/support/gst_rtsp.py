"""GStreamer's RTSP server with one stream, for Debian's own Python (python3-gi, gir1.2-gst-rtsp-server-1.0).

python3 gst_rtsp.py LAUNCH PORT    prints the port once it listens; LAUNCH: see gst-launch, its payloader is pay0
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402 - versions are chosen before


def main() -> None:
    Gst.init(None)
    if Gst.ElementFactory.find("x264enc") is None:
        sys.exit("no x264enc: gstreamer1.0-plugins-ugly is not installed")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(sys.argv[2])
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(f"( {sys.argv[1]} )")
    factory.set_shared(True)
    server.get_mount_points().add_factory("/door", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main()
