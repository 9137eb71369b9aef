"""What the page at / asks of a server beyond analyses: inspections of images, the fleet, replays."""
