//! The Flotilla store: KV commands over many Raft groups, gRPC services, the server binary.
