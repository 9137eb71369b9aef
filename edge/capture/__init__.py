"""Where images come from: cameras, files, folders; each in a process that can be killed."""
