"""The server's two protocols, gRPC and HTTP, over one pipeline."""
