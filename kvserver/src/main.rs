//! The `kvserver` binary: picks the command, turns its error into one line and an exit code.

use clap::{Parser, Subcommand};
use flotilla_kvserver::config::{self, RunArgs, Settings};
use flotilla_kvserver::playground::{self, PlaygroundArgs};
use flotilla_kvserver::{logging, node};
use std::process::ExitCode;

// Many threads free what others allocated: the system's allocator keeps far more memory then.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// A store of the replicated key-value database Flotilla.
#[derive(Parser)]
#[command(name = "kvserver", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one store.
    ///
    /// Flags win over the environment, that over the file, that over defaults. One port serves
    /// gRPC, and HTTP with /healthz, /status (JSON) and /metrics (Prometheus). SIGTERM stops it
    /// cleanly.
    #[command(after_long_help = config::tables_help())]
    Run(Box<RunArgs>),
    /// Run a whole cluster on this machine: placement and stores as child processes.
    ///
    /// Prints them as a table, then `ready placement=HOST:PORT` once every region has a leader.
    /// Ctrl-C or SIGTERM stops everything cleanly; with --dir a second start continues the
    /// cluster.
    Playground(Box<PlaygroundArgs>),
}

fn main() -> ExitCode {
    logging::install_panic_hook();
    let result = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Playground(args) => playground::run(*args).map_err(|e| e.to_string()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(line) => {
            eprintln!("error: {line}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<(), String> {
    let settings = Settings::load(args).map_err(|e| e.to_string())?;
    logging::start(&settings.log_level, settings.log_format)?;
    node::run(settings).map_err(|e| e.to_string())
}
