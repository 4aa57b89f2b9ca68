//! The `kvserver` binary: picks the command, turns its error into one line and an exit code.

use clap::{Parser, Subcommand};
use flotilla_kvserver::config::{self, RunArgs, Settings};
use flotilla_kvserver::offline::{self, RecoverArgs, RecoverError};
use flotilla_kvserver::playground::{self, PlaygroundArgs, PlaygroundError};
use flotilla_kvserver::process::start_logging;
use flotilla_kvserver::{PROGRAM, node};
use std::process::ExitCode;
use tikv_jemalloc_ctl::{background_thread, max_background_threads};

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
    /// gRPC, and HTTP with /healthz, /status (JSON) and /metrics (Prometheus). SIGTERM hands its
    /// leaderships over and stops it cleanly; SIGUSR2 writes describe.json into its folder.
    #[command(after_long_help = config::tables_help())]
    Run(Box<RunArgs>),
    /// Have the groups of a stopped store go on without stores that are lost for good.
    ///
    /// For when too little of the cluster runs for `kv admin group recover`. Of each group choose
    /// the store whose replica has the last log (the largest term, then index; --dry-run prints
    /// them), and run it on that one only, never on two: both would go on with data of their own,
    /// and neither would end the other. Then start the store, and have placement turn the lost
    /// stores away (`kv admin group recover --force --lost-stores …`). What only the lost stores
    /// had is lost, acknowledged or not. Other stores' replicas of such a group are replaced by new
    /// ones, which need a snapshot. The lost stores must never start again with their old folders.
    ///
    /// A replica that is damaged, or was destroyed to be rebuilt, counts as lost if it is named in
    /// --gone-replicas, though its store is not.
    #[command(after_help = "\
Examples:
  kvserver recover --dir /data/3 --lost-stores 1,2 --dry-run
  kvserver recover --dir /data/3 --lost-stores 1,2 --groups 4,7
  kvserver recover --dir /data/3 --lost-stores 1,2 --all

Exit codes:
  0  done, or nothing to recover
  1  the folder cannot be used, or its store runs
  2  wrong usage, an unknown group or this very store given up as lost too
  3  some group was not recovered")]
    Recover(RecoverArgs),
    /// Run a whole cluster on this machine: placement and stores as child processes.
    ///
    /// Prints them as a table, then `ready placement=HOST:PORT` once every region has a leader.
    /// Ctrl-C or SIGTERM stops everything cleanly; with --dir a second start continues the
    /// cluster.
    Playground(Box<PlaygroundArgs>),
}

/// Why the process ends: one line and the exit code.
struct Failure(String, u8);

impl Failure {
    /// What was asked for does not fit; the code is that of clap's own refusals.
    fn wrong_usage(error: &impl ToString) -> Self {
        Failure(error.to_string(), 2)
    }

    fn other(error: &impl ToString) -> Self {
        Failure(error.to_string(), 1)
    }
}

fn main() -> ExitCode {
    PROGRAM.install_panic_hook();
    let result = match Cli::parse().command {
        Command::Run(args) => run(*args),
        Command::Recover(args) => offline::run(&args).map_err(|error| match error {
            RecoverError::Wrong(_) => Failure::wrong_usage(&error),
            RecoverError::Failed { .. } => Failure(error.to_string(), 3),
            RecoverError::Node(_) | RecoverError::Output(_) => Failure::other(&error),
        }),
        Command::Playground(args) => playground::run(*args).map_err(|error| match error {
            PlaygroundError::Config(_) | PlaygroundError::Invalid(_) => {
                Failure::wrong_usage(&error)
            }
            _ => Failure::other(&error),
        }),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(line, code)) => {
            eprintln!("error: {line}");
            ExitCode::from(code)
        }
    }
}

/// By itself the allocator gives memory back only when somebody asks for more: a store that rests would keep
/// what its start took.
fn free_in_background() -> Result<(), tikv_jemalloc_ctl::Error> {
    max_background_threads::write(1)?;
    background_thread::write(true)
}

fn run(args: RunArgs) -> Result<(), Failure> {
    let settings = Settings::load(args).map_err(|e| Failure::wrong_usage(&e))?;
    start_logging(&settings.log_level, settings.log_format).map_err(|e| Failure::other(&e))?;
    if let Err(error) = free_in_background() {
        tracing::warn!(%error, "memory that is free may stay with this process while it rests");
    }
    node::run(settings).map_err(|e| Failure::other(&e))
}
