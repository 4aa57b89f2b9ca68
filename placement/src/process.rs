//! The process around a node: log lines, signals, what it says last.

use crate::config::LogFormat;
use flotilla_raftstore::Fatal;
use std::io::Read;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
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

/// Ends the process after an error that it must not survive, with one clear last line.
///
/// Called by the thread that met the error; no destructor runs, as after a power cut.
pub fn end_fatally(fatal: &Fatal) -> ! {
    eprintln!(
        "{fatal}; the placement member stops; check the device and the file system, then start it \
         again: it recovers what is on disk, and nothing acknowledged depends on what failed"
    );
    std::process::exit(1);
}

/// A panic is a bug: one line instead of a trace, and the process ends, because a thread that is
/// missing would leave the rest waiting.
pub fn install_panic_hook() {
    std::panic::set_hook(Box::new(|info| {
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
            "fatal: a bug in placement, thread {thread} at {place}: {}; the member stops; start \
             it again and report this line",
            what.replace('\n', " ")
        );
        std::process::abort();
    }));
}

/// Waits for SIGTERM, Ctrl-C or the end of the parent.
pub struct Stop(mpsc::Receiver<&'static str>);

impl Stop {
    /// Listens from now on; on a tokio runtime.
    pub fn listen() -> std::io::Result<Stop> {
        let (sender, receiver) = mpsc::channel(1);
        for (kind, name) in
            [(SignalKind::terminate(), "SIGTERM"), (SignalKind::interrupt(), "Ctrl-C")]
        {
            let mut signals = signal(kind)?;
            let sender = sender.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    // Full = somebody else has said stop already.
                    let _ = sender.try_send(name);
                }
            });
        }
        if std::env::var_os(PARENT_PIPE).is_some_and(|value| value == "1") {
            std::thread::Builder::new().name("parent-pipe".to_owned()).spawn(move || {
                wait_for_end_of_input();
                let _ = sender.try_send("the parent process ended");
            })?;
        }
        Ok(Stop(receiver))
    }

    /// Waits; gives the reason, for the log.
    pub async fn requested(&mut self) -> &'static str {
        self.0.recv().await.unwrap_or("nothing listens for signals")
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
