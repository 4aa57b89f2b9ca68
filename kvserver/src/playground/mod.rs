//! `kvserver playground`: a whole cluster on this machine, as direct child processes.
//!
//! 1. `plan.rs` turns the flags, and what an existing folder says, into one command a child.
//! 2. The ports are checked, then `children.rs` spawns placement and stores, logs in files.
//! 3. `ready.rs` asks placement and stores until every region has a leader, evenly spread.
//! 4. The line `ready placement=HOST:PORT` is printed; from then on a child that dies is
//!    reported and not restarted.
//! 5. SIGTERM, Ctrl-C or the parent's end stops the stores, then placement.

mod children;
mod plan;
mod ready;

pub use plan::PlaygroundArgs;

use crate::folder::FolderError;
use crate::process::Stop;
use children::{Children, Exited};
use comfy_table::{ContentArrangement, Table, presets};
use plan::{PLACEMENT, Plan};
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// A cluster that is not ready by then has failed.
const READY_TIMEOUT: Duration = Duration::from_secs(120);

/// Why the playground did not start, in one line.
#[derive(Debug, thiserror::Error)]
pub enum PlaygroundError {
    /// The folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The file given with `--config` cannot be used.
    #[error(transparent)]
    Config(#[from] crate::config::SettingsError),
    /// A flag that does not fit.
    #[error("{0}")]
    Invalid(String),
    /// A port that a child needs is taken.
    #[error(
        "port {port} is in use, {name} needs it: stop what listens on {address} or choose another --base-port"
    )]
    PortInUse {
        /// The port.
        port: u16,
        /// The child that would listen there.
        name: String,
        /// Its address.
        address: String,
    },
    /// A child ended before the cluster was ready.
    #[error("{name} ended at start (status={status}): {last_line} (log: {log})")]
    ChildEnded {
        /// The child.
        name: String,
        /// Its exit status.
        status: String,
        /// The last line of its log.
        last_line: String,
        /// Its whole log.
        log: PathBuf,
    },
    /// Not every region got its leader in time.
    #[error("not ready after {} s: {missing} (logs: {logs})", READY_TIMEOUT.as_secs())]
    NotReady {
        /// What is missing.
        missing: String,
        /// The folder with the children's logs.
        logs: PathBuf,
    },
    /// The system refused.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Runs a cluster until it is told to stop. Blocks.
pub fn run(args: PlaygroundArgs) -> Result<(), PlaygroundError> {
    // Held to the end: a temporary folder is removed when it goes out of scope.
    let temporary = match args.dir {
        Some(_) => None,
        None => Some(
            tempfile::Builder::new()
                .prefix("flotilla-playground-")
                .tempdir()
                .map_err(|source| io("creating a temporary folder", source))?,
        ),
    };
    let dir = args.dir.clone().unwrap_or_else(|| {
        temporary.as_ref().expect("made when no folder is given").path().to_owned()
    });
    let plan = Plan::new(&args, &dir)?;
    check_ports(&plan)?;
    plan.record()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| io("starting the runtime", source))?;
    runtime.block_on(async {
        let stop = Stop::listen().map_err(|source| io("listening to signals", source))?;
        let mut children = Children::default();
        let result = run_children(&plan, &mut children, &stop).await;
        children.stop().await;
        result
    })
}

async fn run_children(
    plan: &Plan,
    children: &mut Children,
    stop: &Stop,
) -> Result<(), PlaygroundError> {
    let mut start = Start { children, stop, deadline: Instant::now() + READY_TIMEOUT };
    let mut missing = String::from("placement has not answered yet");
    for spec in plan.children() {
        start.children.spawn(spec).map_err(|e| io(&format!("starting {}", spec.name), e))?;
        if plan.is_new() && spec.name != PLACEMENT {
            // One after the other, so that store-1 gets the id 1.
            let missing = format!("{} has no id from placement", spec.name);
            if !start.step(ready::registered(spec)).await.done(plan, &missing)? {
                return Ok(());
            }
        }
    }
    print_children(plan, start.children);
    let ready = start.step(ready::wait(plan, &mut missing)).await;
    if !ready.done(plan, &missing)? {
        return Ok(());
    }
    say(&format!("ready placement={}", plan.placement_address()));
    loop {
        tokio::select! {
            ended = children.exited() => {
                say(&format!("exited {} pid={} status={}", ended.name, ended.pid, ended.status));
            }
            _ = stop.requested() => return Ok(()),
        }
    }
}

/// What every step of the start has to watch beside its own work.
struct Start<'a> {
    children: &'a mut Children,
    stop: &'a Stop,
    deadline: Instant,
}

/// How a step of the start ended.
enum Step {
    Done,
    Stopped,
    TimedOut,
    Ended(Exited),
}

impl Start<'_> {
    async fn step(&mut self, work: impl Future<Output = ()>) -> Step {
        tokio::select! {
            () = work => Step::Done,
            ended = self.children.exited() => Step::Ended(ended),
            _ = self.stop.requested() => Step::Stopped,
            () = tokio::time::sleep_until(self.deadline) => Step::TimedOut,
        }
    }
}

impl Step {
    /// Whether to go on; `missing` says what a step that timed out was waiting for.
    fn done(self, plan: &Plan, missing: &str) -> Result<bool, PlaygroundError> {
        match self {
            Step::Done => Ok(true),
            Step::Stopped => Ok(false),
            Step::TimedOut => Err(PlaygroundError::NotReady {
                missing: missing.to_owned(),
                logs: plan.dir().to_owned(),
            }),
            Step::Ended(ended) => Err(ended_at_start(ended)),
        }
    }
}

fn ended_at_start(ended: Exited) -> PlaygroundError {
    PlaygroundError::ChildEnded {
        last_line: ended.last_line().unwrap_or_else(|| "it wrote nothing".to_owned()),
        name: ended.name,
        status: ended.status,
        log: ended.log,
    }
}

/// Binds every port once and lets it go: an error here is one line that names the port, before
/// any child exists.
fn check_ports(plan: &Plan) -> Result<(), PlaygroundError> {
    for spec in plan.children() {
        if TcpListener::bind((Ipv4Addr::LOCALHOST, spec.port)).is_err() {
            return Err(PlaygroundError::PortInUse {
                port: spec.port,
                name: spec.name.clone(),
                address: spec.address(),
            });
        }
    }
    Ok(())
}

fn print_children(plan: &Plan, children: &Children) {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(["name", "pid", "address", "folder"]);
    for spec in plan.children() {
        let pid = children.pid(&spec.name).map_or_else(String::new, |pid| pid.to_string());
        table.add_row([&spec.name, &pid, &spec.address(), &spec.folder.display().to_string()]);
    }
    say(&table.to_string());
    say("To bring one back after it died, run its command:");
    for spec in plan.children() {
        say(&format!("  {}: {}", spec.name, spec.command_line()));
    }
}

/// A line on standard output, at once. A reader that went away is no reason to end a cluster.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

fn io(what: &str, source: std::io::Error) -> PlaygroundError {
    PlaygroundError::Io { what: what.to_owned(), source }
}
