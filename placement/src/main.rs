//! The `placement` binary: one member of the placement driver.

use clap::{Parser, Subcommand};
use flotilla_placement::config::{RunArgs, Settings};
use flotilla_placement::node::{self, Node};
use flotilla_placement::process::{Program, Stop, start_logging};
use std::process::ExitCode;
use std::sync::Arc;

const PROGRAM: Program = Program { name: "placement", role: "the placement member" };

/// The placement driver of the replicated key-value database Flotilla: ids, regions, routes.
#[derive(Parser)]
#[command(name = "placement", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one placement member.
    ///
    /// Flags win over the environment, that over the file, that over defaults. One port serves
    /// gRPC, and HTTP with /healthz, /status (JSON) and /metrics (Prometheus). Stores keep serving
    /// while placement is down. SIGTERM and Ctrl-C stop it cleanly; SIGUSR2 writes describe.json into
    /// its folder.
    Run(Box<RunArgs>),
}

fn main() -> ExitCode {
    PROGRAM.install_panic_hook();
    let Command::Run(args) = Cli::parse().command;
    let settings = match Settings::load(*args) {
        Ok(settings) => settings,
        // As clap ends where it finds the mistake itself.
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::from(2);
        }
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("error: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(settings: &Settings) -> Result<(), String> {
    start_logging(&settings.log_level, settings.log_format)?;
    // The port comes first: nothing is touched when another process has it.
    let listener = node::bind(&settings.addr)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("net")
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the network threads: {e}"))?;
    runtime.block_on(async {
        let stop = Stop::listen().map_err(|e| format!("cannot listen to signals: {e}"))?;
        let on_fatal = Arc::new(|fatal| PROGRAM.end_fatally(&fatal));
        let node = Node::start(settings, listener, on_fatal).map_err(|e| e.to_string())?;
        let reason = stop.requested().await;
        tracing::info!(reason, "stopping");
        node.stop().await;
        Ok(())
    })
}
