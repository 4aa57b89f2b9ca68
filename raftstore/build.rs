//! Generates the gRPC code of `proto/transport.proto` for the feature `grpc`, without a system
//! `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto/transport.proto");
    println!("cargo:rerun-if-env-changed=CARGO_FEATURE_GRPC");
    if std::env::var_os("CARGO_FEATURE_GRPC").is_some() {
        let files = protox::compile(["proto/transport.proto"], ["proto"])?;
        tonic_prost_build::configure().bytes(".").compile_fds(files)?;
    }
    Ok(())
}
