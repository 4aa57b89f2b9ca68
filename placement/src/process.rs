//! The process around a server, a placement member or a store: log lines, signals, what it says
//! last.

use crate::config::LogFormat;
use flotilla_raftstore::Fatal;
use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Set to `1` by a parent that holds the child's standard input as a pipe: the child stops when
/// that pipe closes, so that even a parent killed by SIGKILL leaves nothing behind.
pub const PARENT_PIPE: &str = "FLOTILLA_PARENT_PIPE";

/// Checks a filter of log lines, as `--log-level` takes it.
pub fn level(text: &str) -> Result<String, String> {
    filter(text).map(|_| text.to_owned())
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    // Of the log's engine an operator needs to hear what is wrong only; `level` may say otherwise.
    EnvFilter::builder().parse(format!("raft_engine=warn,{level}")).map_err(|e| {
        format!("'{level}': {e}; use error, warn, info, debug, trace or target=level,…")
    })
}

/// Starts log lines on standard error, with a filter such as `info` or `info,tonic=debug`.
pub fn start_logging(level: &str, format: LogFormat) -> Result<(), String> {
    let filter = filter(level).map_err(|e| format!("--log-level {e}"))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => log.with_ansi(false).try_init(),
        LogFormat::Json => log.json().flatten_event(true).try_init(),
    }
    .map_err(|e| format!("logging: {e}"))
}

/// What runs in the process, for its last line.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The binary.
    pub name: &'static str,
    /// What stops with it, as in "the store stops".
    pub role: &'static str,
}

impl Program {
    /// Ends the process after an error that it must not survive, with one clear last line.
    ///
    /// Called by the thread that met the error; no destructor runs, as after a power cut.
    pub fn end_fatally(self, fatal: &Fatal) -> ! {
        eprintln!(
            "{fatal}; {} stops; check the device and the file system, then start it again: it \
             recovers what is on disk, and nothing acknowledged depends on what failed",
            self.role
        );
        std::process::exit(1);
    }

    /// A panic is a bug: one line instead of a trace, and the process ends, because a thread that
    /// is missing would leave the rest waiting.
    pub fn install_panic_hook(self) {
        std::panic::set_hook(Box::new(move |info| {
            let Program { name, role } = self;
            let payload = info.payload();
            let what = payload
                .downcast_ref::<&str>()
                .copied()
                .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
                .unwrap_or("no message");
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let thread = std::thread::current();
            let thread = thread.name().unwrap_or("unnamed");
            eprintln!(
                "fatal: a bug in {name}, thread {thread} at {place}: {}; {role} stops; start it \
                 again and report this line",
                what.replace('\n', " ")
            );
            std::process::abort();
        }));
    }
}

/// Tells every holder once that the process is to stop: at SIGTERM, Ctrl-C or the end of the
/// parent. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop(watch::Receiver<Option<&'static str>>);

impl Stop {
    /// Listens to the signals from now on; inside a Tokio runtime.
    pub fn listen() -> std::io::Result<Stop> {
        let (sender, receiver) = watch::channel(None);
        for (kind, name) in
            [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "Ctrl-C")]
        {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    sender.send_replace(Some(name));
                }
            });
        }
        if std::env::var_os(PARENT_PIPE).is_some_and(|value| value == "1") {
            std::thread::Builder::new().name("parent-pipe".to_owned()).spawn(move || {
                wait_for_end_of_input();
                sender.send_replace(Some("the parent process ended"));
            })?;
        }
        Ok(Stop(receiver))
    }

    /// Waits until the process is to stop; the reason is for the log.
    pub async fn requested(&self) -> &'static str {
        let mut receiver = self.0.clone();
        match receiver.wait_for(Option::is_some).await {
            Ok(reason) => reason.unwrap_or("stop"),
            // Without senders nobody can ask any more: wait for ever.
            Err(_) => std::future::pending().await,
        }
    }
}

fn wait_for_end_of_input() {
    let mut buffer = [0; 256];
    let mut input = std::io::stdin().lock();
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
